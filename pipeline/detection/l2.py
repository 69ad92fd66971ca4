"""RMS distance of pictures (Carlini et al. 2023, "Extracting Training Data from Diffusion Models").

    d(a, b) = sqrt( mean over pixels and channels of (a - b)^2 ),   a, b in [0, 1]

Extraction is claimed there at d <= 0.15; the paper's first pair stands at 0.031, where a float32
Gram matrix |a|^2 + |b|^2 - 2ab has cancelled. Here the sums run in float64 over the stored values.
For uint8 pictures they are sums of integers below 2^53, hence exact and independent of the order
of rows, blocks and threads; for float32 pictures d is right to about 1e-7.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.detection.pictures import (
    Pictures,
    as_rows,
    check_comparable,
    check_paired,
    full_scale,
)

_ROWS = 512
_COLUMNS = 8192  # a block of 512 x 8192 float64 takes 32 MiB


def l2(a: Pictures, b: Pictures) -> npt.NDArray[np.float64]:
    """Distances (n,) of the pairs a[i], b[i]; both uint8, or both float32 in [0, 1].

    Raises MeasureError on shapes or dtypes that differ.
    """
    check_paired(a, b)
    rows_a, rows_b = as_rows(a), as_rows(b)
    squares = np.zeros(len(a))
    for rows in _blocks(len(a), _ROWS):
        for columns in _blocks(rows_a.shape[1], _COLUMNS):
            gap = rows_a[rows, columns].astype(np.float64) - rows_b[rows, columns]
            squares[rows] += np.einsum("nk,nk->n", gap, gap)
    return np.sqrt(squares / rows_a.shape[1]) / full_scale(a)


def pairwise_l2(a: Pictures, b: Pictures | None = None) -> npt.NDArray[np.float64]:
    """Distances (n, m) of every a[i] to every b[j]; both uint8, or both float32 in [0, 1].

    Without `b`: of `a` to itself, symmetric, with a diagonal of zeros.
    Raises MeasureError on sizes or dtypes that differ.
    """
    if b is None:
        distances = pairwise_l2(a, a)
        np.fill_diagonal(distances, 0.0)
        return np.minimum(distances, distances.T)
    check_comparable(a, b)
    rows_a, rows_b = as_rows(a), as_rows(b)
    squares = _pairwise_squares(rows_a, rows_b)
    return np.sqrt(squares.clip(min=0) / rows_a.shape[1]) / full_scale(a)


def _pairwise_squares(a: Pictures, b: Pictures) -> npt.NDArray[np.float64]:
    squares = np.zeros((len(a), len(b)))
    for i in _blocks(len(a), _ROWS):
        for j in _blocks(len(b), _ROWS):
            for columns in _blocks(a.shape[1], _COLUMNS):
                x = a[i, columns].astype(np.float64)
                y = b[j, columns].astype(np.float64)
                x_sq, y_sq = np.einsum("nk,nk->n", x, x), np.einsum("mk,mk->m", y, y)
                squares[i, j] += x_sq[:, None] + y_sq[None, :] - 2 * (x @ y.T)
    return squares


def _blocks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))
