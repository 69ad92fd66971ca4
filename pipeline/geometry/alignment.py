"""The affine map of one picture onto another that their local features vote for.

Binary descriptors are compared by the bits that differ. With their bits as signs, a and b of
+1 and -1 in d places,

    hamming(a, b) = (d - a . b) / 2

so that all distances of two pictures are one matrix product. Two features match if each is the
other's nearest and clearly nearer than the next one (Lowe 2004, section 7.1: at most 0.8 of the
second's distance). Similarities through pairs of matches are drawn at random and
the one with most inliers wins (RANSAC, Fischler and Bolles 1981); an affine map, which a changed
aspect needs, is then fitted to its inliers by least squares.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.geometry.features import LocalFeatures

Matrix = npt.NDArray[np.float64]
Points = npt.NDArray[np.float32]

RATIO = 0.8
REPROJECTION_PX = 5.0
_DRAWS = 500
_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * np.float32(2) - 1
_FOR_AFFINE = 6  # inliers; three determine it, and say nothing of whether it is right


@dataclass(frozen=True, eq=False)
class Alignment:
    """`matrix` (2, 3) maps pixels of the first picture to those of the second."""

    matrix: Matrix
    inliers: int
    matches: int

    @property
    def scale(self) -> float:
        """Pixels of the second picture a pixel of the first, along a side."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

    @property
    def inverse(self) -> Matrix:
        """(2, 3), from pixels of the second picture to those of the first."""
        linear = np.linalg.inv(self.matrix[:, :2])
        return np.concatenate([linear, -linear @ self.matrix[:, 2:]], axis=1)


def align(
    first: LocalFeatures, second: LocalFeatures, *, least_matches: int = 3
) -> Alignment | None:
    """The alignment with most inliers; None where the features suggest none."""
    rows, columns = _matches(_signs(first.descriptors), _signs(second.descriptors))
    if len(rows) < max(3, least_matches):
        return None
    source, target = first.points[rows], second.points[columns]
    matrix, inside = cv2.estimateAffinePartial2D(
        source,
        target,
        method=cv2.RANSAC,
        ransacReprojThreshold=REPROJECTION_PX,
        maxIters=_DRAWS,
        confidence=0.999,
    )
    if matrix is None or not np.isfinite(matrix).all():
        return None
    chosen = inside.ravel().astype(bool)
    if chosen.sum() >= _FOR_AFFINE:
        matrix = _affine(source[chosen], target[chosen])
    if abs(np.linalg.det(matrix[:, :2])) < 1e-6:
        return None
    return Alignment(np.asarray(matrix, np.float64), int(chosen.sum()), len(rows))


def _signs(descriptors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Bytes (n, d / 8) as +1 and -1 (n, d)."""
    count, width = descriptors.shape
    return _SIGNS[descriptors].reshape(count, 8 * width)


def _matches(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of mutual nearest neighbours that pass the ratio test, by rising first row."""
    if len(first) < 2 or len(second) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    alike = first @ second.T  # small integers: exact
    rows = np.arange(len(first))
    nearest = alike.argmax(axis=1)
    best = alike[rows, nearest]
    mutual = alike.argmax(axis=0)[nearest] == rows
    alike[rows, nearest] = -first.shape[1]
    clear = first.shape[1] - best < RATIO * (first.shape[1] - alike.max(axis=1))
    chosen = np.flatnonzero(mutual & clear)
    return chosen, nearest[chosen]


def _affine(source: Points, target: Points) -> Matrix:
    design = np.concatenate([source, np.ones((len(source), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(design, target.astype(np.float64), rcond=None)
    return np.asarray(solution.T)
