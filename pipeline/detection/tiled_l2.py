"""Tiled RMS distance (Carlini et al. 2023, Stable Diffusion): the l2 of the worst of 16 tiles.

    d(a, b) = max over tiles p of  sqrt( mean over tile p of (a - b)^2 ),   a, b in [0, 1]

Two pictures that share a plain background are near in l2, and far in the tile that holds their
subject. Tiles: 4 x 4, without overlap. Where a side is no multiple of 4, borders fall as in
`numpy.array_split`: the first (side mod 4) tiles are one pixel longer. l2 <= tiled l2, always.
"""

import numpy as np
import numpy.typing as npt

from pipeline.detection.errors import MeasureError
from pipeline.detection.l2 import l2, pairwise_l2
from pipeline.detection.pictures import Pictures, check_comparable, check_paired

TILES_PER_SIDE = 4

Tile = tuple[slice, slice]


def tiled_l2(a: Pictures, b: Pictures) -> npt.NDArray[np.float64]:
    """Distances (n,) of the pairs a[i], b[i]; both uint8, or both float32 in [0, 1].

    Raises MeasureError on shapes or dtypes that differ, and below 4 pixels a side.
    """
    check_paired(a, b)
    worst = np.zeros(len(a))
    for rows, columns in _tiles(*a.shape[1:3]):
        np.maximum(worst, l2(a[:, rows, columns], b[:, rows, columns]), out=worst)
    return worst


def pairwise_tiled_l2(a: Pictures, b: Pictures | None = None) -> npt.NDArray[np.float64]:
    """Distances (n, m) of every a[i] to every b[j]; both uint8, or both float32 in [0, 1].

    Without `b`: of `a` to itself, symmetric, with a diagonal of zeros.
    Raises MeasureError on sizes or dtypes that differ, and below 4 pixels a side.
    """
    other = a if b is None else b
    check_comparable(a, other)
    worst = np.zeros((len(a), len(other)))
    for rows, columns in _tiles(*a.shape[1:3]):
        tile_b = None if b is None else b[:, rows, columns]
        np.maximum(worst, pairwise_l2(a[:, rows, columns], tile_b), out=worst)
    return worst


def _tiles(height: int, width: int) -> list[Tile]:
    return [(rows, columns) for rows in _cuts(height) for columns in _cuts(width)]


def _cuts(side: int) -> list[slice]:
    if side < TILES_PER_SIDE:
        raise MeasureError(f"pictures: {side} pixels a side cannot be cut into {TILES_PER_SIDE}")
    parts = np.array_split(np.arange(side), TILES_PER_SIDE)
    return [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
