"""Local features of a picture, and of its mirror image.

ORB (Rublee et al. 2011) on the grey picture at a fixed size: corners at several scales, each with
256 comparisons of pixels around it, turned to the corner's own direction. On photographs it finds
the copies that SIFT finds, at a seventh of the time. The comparisons have no symmetry, so a mirror
image is looked at anew, when it is asked for.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 160
"""Pixels of the longer side: as good as 256 on photographs, in half of the time; at 128 strangers
begin to align."""
KEYPOINTS = 150
"""Fewer find fewer of the copies that share little; more are compared in quadratic time."""
BITS = 256
_LEVELS = 8
_SCALE = 1.2  # from one level to the next
_PATCH = 24  # pixels that a descriptor sees; 31 by default, which leaves a wide margin without any
_BLUR = 2.0  # pixels
_CONTRAST = 5  # grey levels; most of a plain product photograph is below the default of 20
_NO_DESCRIPTORS = np.zeros((0, BITS // 8), np.uint8)
cv2.setNumThreads(1)  # callers have threads of their own


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """grey (h, w); points (n, 2) as x, y in its pixels; descriptors (n, 32), eight bits a byte.

    The strongest keypoints come first, at most `limit` of them.
    """

    grey: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.uint8]
    limit: int = KEYPOINTS

    @cached_property
    def smooth(self) -> npt.NDArray[np.uint8]:
        """The grey picture (h, w) without what one edit sharpens and another blurs."""
        return cv2.GaussianBlur(self.grey, (0, 0), _BLUR)

    @cached_property
    def mirrored(self) -> "LocalFeatures":
        """Those of the picture with left and right exchanged."""
        return _extract(np.ascontiguousarray(self.grey[:, ::-1]), self.limit)


def local_features(picture: Image.Image, limit: int = KEYPOINTS) -> LocalFeatures:
    """Features of an upright RGB picture of any size; none where nothing stands out."""
    scale = SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    resized = picture.convert("L").resize((width, height), Image.Resampling.LANCZOS)
    return _extract(np.array(resized), limit)


def _extract(grey: npt.NDArray[np.uint8], limit: int) -> LocalFeatures:
    orb = cv2.ORB.create(
        nfeatures=limit,
        scaleFactor=_SCALE,
        nlevels=_LEVELS,
        edgeThreshold=_PATCH // 2,
        patchSize=_PATCH,
        fastThreshold=_CONTRAST,
    )
    if min(grey.shape) <= _PATCH:  # all margin; OpenCV fails on a side that scales to nothing
        return LocalFeatures(grey, np.zeros((0, 2), np.float32), _NO_DESCRIPTORS, limit)
    keypoints, found = orb.detectAndCompute(grey, None)
    if found is None or not len(found):
        return LocalFeatures(grey, np.zeros((0, 2), np.float32), _NO_DESCRIPTORS, limit)
    points = np.asarray(cv2.KeyPoint.convert(keypoints), np.float32)
    response = np.array([keypoint.response for keypoint in keypoints])
    # OpenCV gives more where the weakest tie, in no stated order
    chosen = np.lexsort((points[:, 1], points[:, 0], -response))[:limit]
    return LocalFeatures(grey, points[chosen], found[chosen], limit)
