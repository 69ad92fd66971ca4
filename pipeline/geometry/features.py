"""Local features of a picture, and of its mirror image.

SIFT (Lowe 2004) on the grey picture at a fixed size. A descriptor is a grid of 4 x 4 histograms of
8 directions, all relative to the direction of its keypoint. Mirroring the picture turns the grid
over along that direction and negates every angle, so the mirror image's descriptors are a
permutation: direction k becomes -k mod 8, row r becomes 3 - r. Nothing is extracted twice.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 160
"""Pixels of the longer side: as good as 256 on photographs, in half of the time; at 128 strangers
begin to align."""
KEYPOINTS = 150
_CONTRAST = 0.02  # half of Lowe's: most of a plain product photograph is below his
cv2.setNumThreads(1)  # callers have threads of their own
_WIDTH = 128
_MIRRORED = np.arange(_WIDTH).reshape(4, 4, 8)[::-1, :, -np.arange(8) % 8].ravel()


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """grey (h, w); points (n, 2) as x, y in its pixels; descriptors (n, 128), OpenCV's integers.

    The strongest keypoints come first.
    """

    grey: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.uint8]

    def mirrored(self) -> "LocalFeatures":
        """Those of the picture with left and right exchanged."""
        points = self.points.copy()
        points[:, 0] = self.grey.shape[1] - 1 - points[:, 0]
        return LocalFeatures(
            np.ascontiguousarray(self.grey[:, ::-1]), points, self.descriptors[:, _MIRRORED]
        )


def local_features(picture: Image.Image) -> LocalFeatures:
    """Features of an upright RGB picture of any size; none where nothing stands out."""
    scale = SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    resized = picture.convert("L").resize((width, height), Image.Resampling.LANCZOS)
    grey = np.array(resized)
    sift = cv2.SIFT.create(nfeatures=KEYPOINTS, contrastThreshold=_CONTRAST)
    keypoints, found = sift.detectAndCompute(grey, None)
    if found is None or not len(found):
        return LocalFeatures(grey, np.zeros((0, 2), np.float32), np.zeros((0, _WIDTH), np.uint8))
    points = np.asarray(cv2.KeyPoint.convert(keypoints), np.float32)
    response = np.array([keypoint.response for keypoint in keypoints])
    # OpenCV gives more where the weakest tie, in no stated order
    chosen = np.lexsort((points[:, 1], points[:, 0], -response))[:KEYPOINTS]
    return LocalFeatures(grey, points[chosen], found[chosen].astype(np.uint8))
