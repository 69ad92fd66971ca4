"""Exact search by comparing all with all: the reference that every index is measured against.

Beside the vectors themselves, which may be a memory map, memory is bounded by a block of the second
set and by what is found.
"""

from typing import Any

import faiss
import numpy as np

from indexes.checks import checked
from indexes.metrics import AnyVectors, Metric, Rows, Scores, near_enough, score_rows
from indexes.radius import within
from indexes.ranking import Nearest, top_k

FAISS_METRIC = {"cosine": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}

_VECTORS_AT_ONCE = 1 << 15


def knn(queries: AnyVectors, vectors: AnyVectors, k: int, metric: Metric) -> Nearest:
    """The k rows of `vectors` (m, d) nearest to each of `queries` (n, d).

    Returns scores (n, k) float32 and rows (n, k) int64, nearest first, ties by the smallest row;
    row -1, infinitely far, where there are fewer than k.
    """
    vectors = checked(vectors, metric)
    queries = checked(queries, metric, vectors.shape[1])

    def search(some: AnyVectors, width: int) -> tuple[Any, Rows]:
        if metric == "hamming":
            return faiss.knn_hamming(some, vectors, width)
        return faiss.knn(some, vectors, width, FAISS_METRIC[metric])

    def rescore(some: AnyVectors, query_rows: Rows, rows: Rows) -> Scores:
        return score_rows(metric, some, vectors, query_rows, rows)

    return top_k(queries, k, metric, search, rescore)


def range_pairs(
    vectors_a: AnyVectors, vectors_b: AnyVectors, threshold: float, metric: Metric
) -> tuple[Rows, Rows, Scores]:
    """All pairs across two sets that are at the threshold or nearer.

    Returns rows of a, rows of b and the exact scores, sorted by rows. How many there are is not
    bounded: collapse exact copies first (indexes.stars).
    """
    vectors_a = checked(vectors_a, metric)
    vectors_b = checked(vectors_b, metric, vectors_a.shape[1])
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for start in range(0, len(vectors_b), _VECTORS_AT_ONCE):
        block = vectors_b[start : start + _VECTORS_AT_ONCE]
        rows_a, rows_b, scores = block_pairs(vectors_a, block, threshold, metric)
        found.append((rows_a, start + rows_b, scores))
    rows_a, rows_b, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((rows_b, rows_a))
    return rows_a[order], rows_b[order], scores[order]


def block_pairs(
    queries: AnyVectors,
    block: AnyVectors,
    threshold: float,
    metric: Metric,
    most: int | None = None,
) -> tuple[Rows, Rows, Scores]:
    """`range_pairs` for vectors already checked and a block that fits in memory, unsorted.

    Raises TooManyPairs, with a row of the queries, above `most`.
    """
    query_rows, rows = within(flat(block, metric), queries, threshold, metric, most)
    scores = score_rows(metric, queries, block, query_rows, rows)
    near = near_enough(metric, scores, threshold)
    return query_rows[near], rows[near], scores[near]


def flat(vectors: AnyVectors, metric: Metric) -> Any:
    """A FAISS index that holds a copy of `vectors` and compares with each."""
    d = vectors.shape[1]
    index: Any
    if metric == "hamming":
        index = faiss.IndexBinaryFlat(8 * d)
    else:
        index = faiss.IndexFlat(d, FAISS_METRIC[metric])
    index.add(vectors)
    return index
