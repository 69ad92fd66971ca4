"""Is a picture of one colour: an empty frame, a placeholder, a safety checker's black square?

    contrast(x) = sqrt( mean over pixels and channels of (x - mean colour of x)^2 ),   x in [0, 1]

Such pictures are near each other in every measure and prove no memorization.
"""

import numpy as np
import numpy.typing as npt

from pipeline.detection.pictures import Pictures, as_unit, check_pictures

MAX_CONTRAST = 0.02  # five grey levels: JPEG noise on a plain frame stays below


def contrast(pictures: Pictures) -> npt.NDArray[np.float64]:
    """RMS deviation (n,) from the own mean colour; uint8, or float32 in [0, 1]."""
    check_pictures(pictures)
    variance = as_unit(pictures).var(axis=(1, 2))
    return np.sqrt(variance.mean(axis=1))


def is_blank(pictures: Pictures, *, max_contrast: float = MAX_CONTRAST) -> npt.NDArray[np.bool_]:
    """Which (n,) have a contrast (rounded to 6 decimals) below `max_contrast`."""
    return contrast(pictures).round(6) < max_contrast
