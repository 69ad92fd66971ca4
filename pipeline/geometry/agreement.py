"""How much of two aligned pictures is the same, by their pixels.

Features agree wherever two pictures share anything: a line of writing, a logo, the floor of a
studio. So the first picture is warped onto the second, and every tile of 16 x 16 pixels where they
overlap is compared: it agrees if its mean, after the gain and offset that fit all tiles best, is
within 30 grey levels, and, where it has texture, if the correlation of its pixels is above 0.7.
Gain and offset are fitted by least absolute deviations (iteratively reweighted), so that the part
that differs does not decide.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.geometry.alignment import Matrix

Grey = npt.NDArray[np.uint8]
Tiles = npt.NDArray[np.float32]
Levels = npt.NDArray[np.float32]

_TILE = 16
_TEXTURE = 4.0  # standard deviation, grey levels
_CORRELATION = 0.7
_LEVELS = 30.0
_ROUNDS = 5
_LEAST_TILES = 4
_ONE_LEVEL = 1e-6  # weighted sum of squares


@dataclass(frozen=True)
class Agreement:
    """`overlap`: the share of the picture that the other covers more of, at most 1. `agreeing`: the
    share of tiles in it that agree, and `textured` of those with texture."""

    overlap: float
    agreeing: float
    textured: float


def agreement(first: Grey, second: Grey, matrix: Matrix) -> Agreement:
    """Compare grey pictures (h, w), `matrix` (2, 3) taking the first's pixels to the second's.

    Smooth ones: what is sharp in one of them alone would lower every correlation.
    """
    height, width = second.shape
    warped = cv2.warpAffine(first, matrix, (width, height), flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(
        np.ones(first.shape, np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST
    )
    covered = float(inside.sum())
    scale = abs(float(np.linalg.det(matrix[:, :2])))
    overlap = min(1.0, max(covered / second.size, covered / (scale * first.size)))
    whole = _tiles(inside).min(axis=1) > 0
    x, y = (_tiles(grey)[whole] for grey in (warped, second))
    if len(x) < _LEAST_TILES:
        return Agreement(overlap, 0.0, 0.0)
    x_mean, y_mean = x.mean(axis=1), y.mean(axis=1)
    x -= x_mean[:, None]
    y -= y_mean[:, None]
    x_spread, y_spread, shared = (np.einsum("ij,ij->i", *z) for z in ((x, x), (y, y), (x, y)))
    texture = np.maximum(x_spread, y_spread) > _TILE**2 * _TEXTURE**2
    alike = shared > _CORRELATION * np.sqrt(x_spread * y_spread)
    same = (_level(x_mean, y_mean) <= _LEVELS) & (~texture | alike)
    of_textured = float(same[texture].mean()) if texture.any() else 0.0
    return Agreement(overlap, float(same.mean()), of_textured)


def _tiles(grey: Grey) -> Tiles:
    """Whole tiles (n, 256) from the upper left corner on."""
    rows, columns = grey.shape[0] // _TILE, grey.shape[1] // _TILE
    cut = grey[: rows * _TILE, : columns * _TILE].reshape(rows, _TILE, columns, _TILE)
    return cut.swapaxes(1, 2).astype(np.float32).reshape(-1, _TILE**2)


def _level(x: Levels, y: Levels) -> Levels:
    """|y - (gain x + offset)| for the line of least absolute deviation."""
    weight = np.ones_like(x)
    residual = weight
    for _ in range(_ROUNDS):
        total = weight.sum()
        x_mean, y_mean = weight @ x / total, weight @ y / total
        spread = weight @ (x - x_mean) ** 2
        # on one level alone every gain fits; none is the least
        gain = weight @ ((x - x_mean) * (y - y_mean)) / spread if spread > _ONE_LEVEL else 0.0
        residual = np.abs(y - y_mean - gain * (x - x_mean))
        weight = 1 / np.maximum(residual, _TEXTURE)
    return residual
