"""Distance to a training image, relative to the training images around it.

Carlini et al. 2023, CIFAR-10: simple pictures are near to everything, so

    r(x', x) = l2(x', x) / ( alpha * mean over y in S of l2(x', y) )      extracted iff r < 1

with S the n = 50 training images nearest to x' and alpha = 0.5. Nothing is excluded here: give one
distance a group of near-duplicates, or the copies of x fill S, the mean falls to l2(x', x) itself,
and the most duplicated images come out at r = 1 / alpha, "not extracted".
"""

import numpy as np
import numpy.typing as npt

from pipeline.detection.errors import MeasureError

N_NEIGHBOURS = 50
ALPHA = 0.5


def adaptive_l2(
    nearest: npt.NDArray[np.float64], neighbours: npt.NDArray[np.float64], *, alpha: float = ALPHA
) -> npt.NDArray[np.float64]:
    """r (n,) of the distances `nearest` (n,), each with its row of `neighbours` (n, k).

    k is 50 in the paper, fewer where the training set has fewer. Where all of a row and its
    `nearest` are 0, r = 1 / alpha: the nearest is no nearer than the others.
    Raises MeasureError on shapes that do not fit, and on distances not finite or negative.
    """
    _check_distances(nearest, neighbours)
    if nearest.ndim != 1 or neighbours.ndim != 2 or len(nearest) != len(neighbours):
        raise MeasureError(f"expected (n,) and (n, k), got {nearest.shape} and {neighbours.shape}")
    if neighbours.shape[1] == 0:
        raise MeasureError("neighbours: expected at least one a row")
    return _ratio(nearest, neighbours.astype(np.float64).mean(axis=1)) / alpha


def nearest_ratio(
    nearest: npt.NDArray[np.float64], second: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The distance `nearest` (n,) over that to the nearest training image of another group.

    Near 0: one training image stands out. 1: it does not (0 / 0 counts as that).
    Raises MeasureError on shapes that differ, and on distances not finite or negative.
    """
    _check_distances(nearest, second)
    if nearest.shape != second.shape:
        raise MeasureError(f"expected one shape, got {nearest.shape} and {second.shape}")
    return _ratio(nearest, second)


def _ratio(
    above: npt.NDArray[np.float64], below: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    without_scale = np.where(above > 0, np.inf, 1.0)
    return np.divide(above, below, out=without_scale, where=below > 0)


def _check_distances(*distances: npt.NDArray[np.float64]) -> None:
    for values in distances:
        if not np.isfinite(values).all() or (values < 0).any():
            raise MeasureError("distances: expected finite values >= 0")
