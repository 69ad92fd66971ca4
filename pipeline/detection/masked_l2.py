"""RMS distance inside a template: what a group of near-duplicates has in common.

Webster 2023 names template verbatims, generations that copy all of a training image but one part
that varies (the product, the text), and drew their masks by hand. A group gives its own mask:

    mask = pixels where  sqrt( mean over channels of var over the group ) < max_std
    d(a, b; mask) = sqrt( mean over masked pixels and channels of (a - b)^2 ),   a, b in [0, 1]

His bound, a squared error of 2.5e3 over 256 x 256 x 3 values, is d < 0.113.
"""

import numpy as np
import numpy.typing as npt

from pipeline.detection.blank import contrast
from pipeline.detection.errors import MeasureError
from pipeline.detection.l2 import l2
from pipeline.detection.pictures import Pictures, as_unit, check_paired, check_pictures

Mask = npt.NDArray[np.bool_]


def template_mask(
    pictures: Pictures,
    *,
    max_std: float = 0.05,
    min_pictures: int = 3,
    min_area: float = 0.25,
    min_contrast: float = 0.05,
) -> Mask | None:
    """The template (h, w) of one group's distinct pictures; uint8, or float32 in [0, 1].

    None, "this group has no template": fewer than `min_pictures`; a mask below `min_area` of the
    picture; or one that shows a single colour (a white background is common to everything).
    Pass distinct pictures: byte copies have no variance and make all of the picture a template.
    """
    check_pictures(pictures)
    if len(pictures) < max(min_pictures, 1):
        return None
    unit = as_unit(pictures)
    spread = np.sqrt(unit.var(axis=0).mean(axis=-1)).round(6)
    mask: Mask = spread < max_std
    if not mask.any() or mask.mean() < min_area:
        return None
    common = unit.mean(axis=0, dtype=np.float32)[mask]
    if contrast(common[None, None])[0].round(6) < min_contrast:
        return None
    return mask


def masked_l2(a: Pictures, b: Pictures, mask: Mask) -> npt.NDArray[np.float64]:
    """Distances (n,) of the pairs a[i], b[i] inside `mask` (h, w); both uint8, or both float32.

    Raises MeasureError on shapes or dtypes that differ, and on an empty mask.
    """
    check_paired(a, b)
    if mask.shape != a.shape[1:3] or mask.dtype != np.bool_ or not mask.any():
        raise MeasureError(f"mask: expected bool {a.shape[1:3]} with a pixel set")
    return l2(a[:, mask][:, None], b[:, mask][:, None])
