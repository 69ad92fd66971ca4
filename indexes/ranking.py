"""The k nearest, in an order that does not depend on how they were found.

FAISS ranks by float32 scores, whose last bits change with block size and threads, and leaves ties
open. So more than k candidates are asked for, until the first one left out is farther than the
k-th by more than the errors of both (indexes.metrics); these are scored in float64, and ties go to
the smallest id. A tie that runs more than a thousand rows past k is cut as FAISS orders it.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from indexes.errors import VectorError
from indexes.metrics import (
    ROUNDING,
    AnyVectors,
    Metric,
    Rows,
    Scores,
    cosine_error,
    nowhere,
    squared_distance_error,
)

Nearest = tuple[npt.NDArray[np.float32], Rows]
Search = Callable[[AnyVectors, int], tuple[npt.NDArray[np.floating], Rows]]
"""(queries, k) -> FAISS's scores and labels, each (n, k), nearest first, -1 for none."""
Rescore = Callable[[AnyVectors, Rows, Rows], Scores]
"""(queries, query rows, labels) -> the exact scores of these pairs."""

_SPARE = 8
_MOST_TIES = 1024
_CANDIDATES_AT_ONCE = 1 << 15


def top_k(queries: AnyVectors, k: int, metric: Metric, search: Search, rescore: Rescore) -> Nearest:
    """The k nearest of each query, (n, k) scores and labels; -1 and the farthest score for none."""
    if k < 1:
        raise VectorError(f"k is {k}, expected at least 1")
    scores = np.full((len(queries), k), nowhere(metric), np.float32)
    labels = np.full((len(queries), k), -1, np.int64)
    todo, spare = np.arange(len(queries)), _SPARE
    while len(todo):
        undecided = []
        at_once = max(1, _CANDIDATES_AT_ONCE // (k + spare))
        for start in range(0, len(todo), at_once):
            rows = todo[start : start + at_once]
            proposed, found = search(queries[rows], k + spare)
            done = _closed(queries[rows], proposed, found, k, metric) | (spare >= _MOST_TIES)
            settled = rows[done]
            scores[settled], labels[settled] = _ranked(
                queries[settled], found[done], k, metric, rescore
            )
            undecided.append(rows[~done])
        todo, spare = np.concatenate(undecided), 4 * spare
    return scores, labels


def _closed(
    queries: AnyVectors,
    proposed: npt.NDArray[np.floating],
    found: Rows,
    k: int,
    metric: Metric,
) -> npt.NDArray[np.bool_]:
    """Whether no row beyond the last candidate can belong among the first k."""
    last, kth = proposed[:, -1].astype(np.float64), proposed[:, k - 1].astype(np.float64)
    if metric == "cosine":
        apart = kth - last > 2 * cosine_error(queries.shape[1])
    elif metric == "l2":
        norms = np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1))
        far = np.sqrt(np.maximum(last, 0))
        error = squared_distance_error(queries.shape[1], 2 * norms + far)
        apart = last - kth > 2 * (error + far * ROUNDING)
    else:
        apart = last > kth
    return apart | (found[:, -1] < 0)


def _ranked(
    queries: AnyVectors,
    found: Rows,
    k: int,
    metric: Metric,
    rescore: Rescore,
) -> tuple[Scores, Rows]:
    exact = np.full(found.shape, nowhere(metric))
    query_rows, places = np.nonzero(found >= 0)
    exact[query_rows, places] = rescore(queries, query_rows, found[query_rows, places])
    distance = -exact if metric == "cosine" else exact
    order = np.lexsort((found, distance), axis=-1)[:, :k]
    return np.take_along_axis(exact, order, 1), np.take_along_axis(found, order, 1)
