"""How much of two aligned pictures is the same, by their pixels.

Features agree wherever two pictures share anything: a line of writing, a logo, the floor of a
studio. So the first picture is warped onto the second, both are blurred, and every tile of 16 x 16
pixels where they overlap is compared: it agrees if its mean, after the gain and offset that fit all
tiles best, is within 30 grey levels, and, where it has texture, if the correlation of its pixels is
above 0.7. Gain and offset are fitted by least absolute deviations (iteratively reweighted), so that
the part that differs does not decide.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.geometry.alignment import Matrix

Grey = npt.NDArray[np.uint8]
Tiles = npt.NDArray[np.float64]

_TILE = 16
_BLUR = 2.0
_TEXTURE = 4.0  # standard deviation, grey levels
_CORRELATION = 0.7
_LEVELS = 30.0
_ROUNDS = 5
_LEAST_TILES = 4


@dataclass(frozen=True)
class Agreement:
    """`overlap`: the share of the picture that the other covers more of, at most 1. `agreeing`: the
    share of tiles in it that agree, and `textured` of those with texture."""

    overlap: float
    agreeing: float
    textured: float


def agreement(first: Grey, second: Grey, matrix: Matrix) -> Agreement:
    """Compare grey pictures (h, w), `matrix` (2, 3) taking the first's pixels to the second's."""
    height, width = second.shape
    warped = cv2.warpAffine(first, matrix, (width, height), flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(
        np.ones(first.shape, np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST
    )
    covered = float(inside.sum())
    scale = abs(float(np.linalg.det(matrix[:, :2])))
    overlap = min(1.0, max(covered / second.size, covered / (scale * first.size)))
    whole = _tiles(inside).min(axis=1) > 0
    x, y = (_tiles(cv2.GaussianBlur(grey, (0, 0), _BLUR))[whole] for grey in (warped, second))
    if len(x) < _LEAST_TILES:
        return Agreement(overlap, 0.0, 0.0)
    near = _level(x.mean(axis=1), y.mean(axis=1)) <= _LEVELS
    texture = np.maximum(x.std(axis=1), y.std(axis=1)) > _TEXTURE
    same = near & (~texture | (_correlation(x, y) > _CORRELATION))
    of_textured = float(same[texture].mean()) if texture.any() else 0.0
    return Agreement(overlap, float(same.mean()), of_textured)


def _tiles(grey: Grey) -> Tiles:
    """Whole tiles (n, 256) from the upper left corner on."""
    rows, columns = grey.shape[0] // _TILE, grey.shape[1] // _TILE
    cut = grey[: rows * _TILE, : columns * _TILE].astype(np.float64)
    return cut.reshape(rows, _TILE, columns, _TILE).swapaxes(1, 2).reshape(-1, _TILE**2)


def _correlation(x: Tiles, y: Tiles) -> npt.NDArray[np.float64]:
    x, y = (z - z.mean(axis=1, keepdims=True) for z in (x, y))
    spread = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.asarray((x * y).sum(axis=1) / np.maximum(spread, 1e-9))


def _level(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """|y - (gain x + offset)| for the line of least absolute deviation."""
    design = np.stack([x, np.ones_like(x)], axis=1)
    weight = np.ones_like(x)
    residual = weight
    for _ in range(_ROUNDS):
        line, *_ = np.linalg.lstsq(design * weight[:, None], y * weight, rcond=None)
        residual = np.abs(y - design @ line)
        weight = 1 / np.sqrt(np.maximum(residual, _TEXTURE))
    return residual
