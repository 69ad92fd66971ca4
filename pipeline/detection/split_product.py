"""Split-product similarity of descriptors (Somepalli et al. 2023, "Diffusion Art or Forgery?").

    s(v, q) = max over chunks c of <v_c, q_c>,      v = (v_1 | ... | v_C),  |v| = |q| = 1

A copied part of a picture lights up some of the descriptor's coordinates; the maximum over chunks
finds them where the whole inner product averages them away. The vectors are normalized as wholes
and the chunks are not, so s <= <v, q> does not hold in general and s = 1 only if one chunk has it
all; compare values of one number of chunks only.
"""

import numpy as np
import numpy.typing as npt

from pipeline.detection.errors import MeasureError

Descriptors = npt.NDArray[np.float32]


def split_product(a: Descriptors, b: Descriptors, *, chunks: int) -> npt.NDArray[np.float64]:
    """Similarities (n,) of the pairs a[i], b[i] of descriptors (n, d); `chunks` divides d.

    Raises MeasureError on shapes that do not fit and on vectors not finite or zero.
    """
    if a.shape != b.shape:
        raise MeasureError(f"descriptors: {a.shape} cannot be paired with {b.shape}")
    products = np.einsum("ncp,ncp->nc", _split(a, chunks), _split(b, chunks))
    return products.max(axis=1)


def _split(descriptors: Descriptors, chunks: int) -> npt.NDArray[np.float64]:
    """Normalized as wholes, (n, chunks, d / chunks)."""
    if descriptors.ndim != 2 or chunks < 1 or descriptors.shape[1] % chunks:
        raise MeasureError(f"descriptors: {descriptors.shape} cannot be cut into {chunks} chunks")
    vectors = descriptors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise MeasureError("descriptors: expected finite vectors that are not zero")
    return (vectors / norms).reshape(len(vectors), chunks, -1)
