"""The affine map of one picture onto another that their local features vote for.

Binary descriptors are compared by the bits that differ. Two features match if each is the other's
nearest and clearly nearer than the next one (Lowe 2004, section 7.1: at most 0.8 of the second's
distance). Similarities through pairs of matches are drawn at random and
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
Descriptors = npt.NDArray[np.uint8]

RATIO = 0.8
REPROJECTION_PX = 5.0
_DRAWS = 500
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
    least = max(3, least_matches)
    rows, columns = _matches(first.descriptors, second.descriptors, least)
    if len(rows) < least:
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


def _matches(
    first: Descriptors, second: Descriptors, least: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of mutual nearest neighbours that pass the ratio test, by rising first row.

    None where fewer than `least` pass the test in one direction: most strangers end here.
    """
    none = np.zeros(0, np.int64)
    if len(first) < 2 or len(second) < 2:
        return none, none
    bits, nearest = _nearest(first, second, 2)
    clear = np.flatnonzero(bits[:, 0] < RATIO * bits[:, 1])
    if len(clear) < least:
        return none, none
    columns = nearest[clear, 0]
    _, back = _nearest(second[columns], first, 1)
    mutual = back[:, 0] == clear
    return clear[mutual], columns[mutual]


def _nearest(
    rows: Descriptors, among: Descriptors, k: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Bits that differ (n, k), and places, of the k nearest of each row; the first of equals."""
    bits, places = cv2.batchDistance(rows, among, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=k)
    return np.asarray(bits, np.int32), np.asarray(places, np.int32)


def _affine(source: Points, target: Points) -> Matrix:
    design = np.concatenate([source, np.ones((len(source), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(design, target.astype(np.float64), rcond=None)
    return np.asarray(solution.T)
