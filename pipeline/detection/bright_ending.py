"""The noise gap where the end token is looked at last (Chen et al. 2025, "Bright Ending", ICLR).

    m   the attention that each position pays to the caption's end token at the final step: the
        mean over heads and over the layers of the finest resolution on the way down
    LD  = mean over the steps t of | D_t m | / mean(m),     D_t = eps(x_t, c) - eps(x_t, no text)

In memorized patches the end token shines. The mask weights Wen's gap, so a caption that replays
a part of a picture stands out where the whole gap is small. LD does not depend on the scale of m.
"""

import numpy as np
import numpy.typing as npt

from pipeline.detection.errors import MeasureError

Column = npt.NDArray[np.float64]


def masked_noise_gap(
    gap_squares: npt.NDArray[np.floating], mask: npt.NDArray[np.floating]
) -> Column:
    """LD (n,) of the gaps' squares summed over channels (steps, n, h, w), and masks (n, h, w).

    Raises MeasureError on shapes that do not fit, values not finite or negative, or a mask that is
    0 everywhere.
    """
    if gap_squares.ndim != 4 or not len(gap_squares) or gap_squares.shape[1:] != mask.shape:
        raise MeasureError(f"mask: {mask.shape} does not fit gaps {gap_squares.shape}")
    for values in (gap_squares, mask):
        if not np.isfinite(values).all() or (values < 0).any():
            raise MeasureError("gaps and masks: expected finite values >= 0")
    weight = mask.astype(np.float64)
    level = weight.mean(axis=(1, 2))
    if not (level > 0).all():
        raise MeasureError("mask: expected some weight in each")
    norms = np.sqrt((gap_squares * weight**2).sum(axis=(2, 3)))
    return norms.mean(axis=0) / level
