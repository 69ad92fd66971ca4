"""Is there nothing on a picture: an empty frame, a safety checker's black square, a mere gradient?

    structure(x) = sqrt( mean over pixels and channels of (x - s(x))^2 ),   x in [0, 1]

s(x): the surface a + bu + cv + duu + euv + fvv of pixel coordinates u, v nearest to x, a channel
each. A colour, a gradient, a vignette are such surfaces. These pictures are near each other in
every measure and prove no memorization.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.detection.pictures import Pictures, as_unit, check_pictures

MAX_STRUCTURE = 0.02  # five grey levels: JPEG noise on a plain frame stays below
_RANK = 1e-9


def contrast(pictures: Pictures) -> npt.NDArray[np.float64]:
    """RMS deviation (n,) from the own mean colour; uint8, or float32 in [0, 1]."""
    check_pictures(pictures)
    variance = as_unit(pictures).var(axis=(1, 2))
    return np.sqrt(variance.mean(axis=1))


def structure(pictures: Pictures) -> npt.NDArray[np.float64]:
    """RMS deviation (n,) from the nearest quadratic surface; uint8, or float32 in [0, 1].

    At most `contrast`. Pictures of one pixel a side and the like have none.
    """
    check_pictures(pictures)
    n, height, width, channels = pictures.shape
    basis = _surfaces(height, width)
    values = as_unit(pictures).reshape(n, height * width, channels)
    values = values - values.mean(axis=1, keepdims=True)  # before squares are subtracted
    squares = np.einsum("npc,npc->n", values, values)
    explained = np.einsum("kp,npc->nkc", basis, values)
    left = squares - np.einsum("nkc,nkc->n", explained, explained)
    return np.sqrt(left.clip(min=0) / (height * width * channels))


def is_blank(pictures: Pictures, *, max_structure: float = MAX_STRUCTURE) -> npt.NDArray[np.bool_]:
    """Which (n,) have a structure (rounded to 6 decimals) below `max_structure`."""
    return structure(pictures).round(6) < max_structure


@lru_cache(maxsize=8)
def _surfaces(height: int, width: int) -> npt.NDArray[np.float64]:
    """Orthonormal rows (k, height * width) that span the surfaces; k is 6, less on a small grid."""
    v, u = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    powers = np.stack([u**0, u, v, u * u, u * v, v * v]).reshape(6, -1)
    _, sizes, basis = np.linalg.svd(powers, full_matrices=False)
    return np.asarray(basis[sizes > _RANK * sizes[0]], np.float64)
