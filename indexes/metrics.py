"""The three measures of nearness, and how far FAISS's float32 may be from them.

    cosine   s(a, b) = <a, b> / (|a| |b|)      near when large
    l2       d(a, b) = |a - b|                 near when small (the plain distance, never squared)
    hamming  h(a, b) = popcount(a xor b)       near when small

Every score is recomputed in float64 and rounded to six decimals before it is compared, so that no
result depends on block size, threads or machine. FAISS only proposes candidates: its float32 inner
product errs by at most gamma_d |x||y|, where gamma_d = d u / (1 - d u) and u = 2^-24 (Higham 2002,
Accuracy and Stability of Numerical Algorithms, section 3.1), and its squared distance, taken as
|x|^2 - 2 <x, y> + |y|^2, by at most gamma_(d+2) (|x| + |y|)^2. Searches are widened by as much.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Metric = Literal["cosine", "l2", "hamming"]
Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
AnyVectors = npt.NDArray[Any]
"""Vectors, or Codes where the metric is "hamming"."""

DECIMALS = 6
ROUNDING = 10.0**-DECIMALS
NORM_TOLERANCE = 1e-5
"""How far from 1 the norm of a vector may be under "cosine"."""

_UNIT_ROUNDOFF = 2.0**-24
_PAIRS_AT_ONCE = 1 << 14


def cosine(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> Scores:
    """Cosine of row i of `a` with row i of `b`, both (n, d) without zero rows, to six decimals."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    products = np.einsum("nd,nd->n", a, a) * np.einsum("nd,nd->n", b, b)
    return np.round(np.einsum("nd,nd->n", a, b) / np.sqrt(products), DECIMALS)


def euclidean(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> Scores:
    """Distance from row i of `a` to row i of `b`, both (n, d), to six decimals."""
    gap = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return np.round(np.sqrt(np.square(gap).sum(axis=1)), DECIMALS)


def hamming(a: Codes, b: Codes) -> Scores:
    """Number of bits in which row i of `a` differs from row i of `b`, both (n, bytes)."""
    return np.bitwise_count(np.bitwise_xor(a, b)).sum(axis=1, dtype=np.float64)


def score(metric: Metric, a: AnyVectors, b: AnyVectors) -> Scores:
    """The measure called `metric` of row i of `a` with row i of `b`."""
    if metric == "cosine":
        return cosine(a, b)
    return euclidean(a, b) if metric == "l2" else hamming(a, b)


def score_rows(metric: Metric, a: AnyVectors, b: AnyVectors, rows_a: Rows, rows_b: Rows) -> Scores:
    """The measure of a[rows_a[i]] with b[rows_b[i]], a block of pairs at a time."""
    scores = np.empty(len(rows_a))
    for start in range(0, len(rows_a), _PAIRS_AT_ONCE):
        block = slice(start, start + _PAIRS_AT_ONCE)
        scores[block] = score(metric, a[rows_a[block]], b[rows_b[block]])
    return scores


def near_enough(metric: Metric, scores: Scores, threshold: float) -> npt.NDArray[np.bool_]:
    """Which scores are at the threshold or nearer."""
    return scores >= threshold if metric == "cosine" else scores <= threshold


def nowhere(metric: Metric) -> float:
    """The score of "no neighbour": farther than any other."""
    return -np.inf if metric == "cosine" else np.inf


def cosine_error(d: int) -> float:
    """Largest gap between a float32 inner product and the rounded cosine of two unit vectors."""
    return d * _UNIT_ROUNDOFF + 2 * NORM_TOLERANCE + ROUNDING


def squared_distance_error(d: int, norms: npt.ArrayLike) -> Scores:
    """Largest error of a float32 squared distance; `norms` is |x| + |y|."""
    return (d + 2) * _UNIT_ROUNDOFF * np.square(np.asarray(norms, np.float64))
