"""Candidates within a radius of each query, from any FAISS index that can search by range.

FAISS compares strictly (inner product > r, squared distance < r, Hamming < r), in float32. The
radius is therefore widened by the error bounds of indexes.metrics: a pair exactly at the threshold
is always among the candidates, and the caller decides on the score recomputed in float64.
"""

from typing import Any

import numpy as np

from indexes.errors import TooManyPairs
from indexes.metrics import (
    ROUNDING,
    AnyVectors,
    Metric,
    Rows,
    cosine_error,
    squared_distance_error,
)

_QUERIES_AT_ONCE = 1024


def within(
    index: Any, queries: AnyVectors, threshold: float, metric: Metric, most: int | None = None
) -> tuple[Rows, Rows]:
    """All (query row, label) pairs at the threshold or nearer, and a few just beyond it.

    Raises TooManyPairs, with the query row that has most of them, above `most`.
    """
    rows, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    total = 0
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        block = queries[start : start + _QUERIES_AT_ONCE]
        limits, _, found = index.range_search(block, _radius(block, threshold, metric))
        counts = np.diff(limits.astype(np.int64))
        total += len(found)
        if most is not None and total > most:
            raise TooManyPairs(most, start + int(counts.argmax()))
        rows.append(start + np.repeat(np.arange(len(block)), counts))
        labels.append(found)
    return np.concatenate(rows), np.concatenate(labels)


def _radius(queries: AnyVectors, threshold: float, metric: Metric) -> float:
    d = queries.shape[1]
    if metric == "cosine":
        return threshold - cosine_error(d)
    if metric == "hamming":
        return int(threshold) + 1
    norm = np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1).max(initial=0.0))
    error = squared_distance_error(d, 2 * norm + threshold)
    return float((threshold + ROUNDING) ** 2 + error) * (1 + ROUNDING)
