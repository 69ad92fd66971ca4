"""How many of the true pairs a join found, measured on a random sample of ids.

For m sampled ids an exact scan lists every pair that one of them is in; recall is the share of
these that the join found, with the 95 % interval of Wilson (1927, JASA 22).

Pairs that share an id are not independent, so with few large groups the interval is too narrow.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from indexes.checks import checked_ids, unit
from indexes.exact import range_pairs
from indexes.join import Pairs, nearest_of_ids
from indexes.metrics import AnyVectors, Codes, Ids, Metric

_VECTORS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Recall:
    """`hits` of `n` true pairs were found; `low` and `high` bound the share."""

    n: int
    hits: int
    low: float
    high: float

    @property
    def recall(self) -> float:
        """The share found; NaN where the sample has no pair."""
        return self.hits / self.n if self.n else float("nan")


def measured_recall(
    vectors: AnyVectors,
    ids: Ids,
    pairs: Pairs,
    threshold: float,
    *,
    metric: Metric = "cosine",
    mirror: Codes | None = None,
    sample: int = 1000,
    seed: int = 0,
) -> Recall:
    """Recall of `pairs`, a join of the whole set, among all pairs of `sample` ids.

    `threshold` is the one joined at: a cosine, or for "hamming" a number of bits.
    """
    true = sampled_pairs(
        vectors, ids, threshold, metric=metric, mirror=mirror, sample=sample, seed=seed
    )
    return recall_of(true, pairs)


def sampled_pairs(
    vectors: AnyVectors,
    ids: Ids,
    threshold: float,
    *,
    metric: Metric = "cosine",
    mirror: Codes | None = None,
    sample: int = 1000,
    seed: int = 0,
) -> Pairs:
    """All pairs that one of `sample` ids is in, by an exact scan of the set.

    The sample is of ids, by seed, whatever the order of rows. For "cosine" vectors (n, d) may be a
    memory map in fp16, and need no unit norm; they are read a block at a time. Of codes an id may
    have several, and `mirror` is as in `hamming_join`.
    """
    ids = checked_ids(ids, len(vectors), repeats=metric == "hamming")
    every = np.unique(ids)
    size = min(sample, len(every))
    wanted = every[np.random.default_rng(seed).choice(len(every), size, replace=False)]
    chosen = np.flatnonzero(np.isin(ids, wanted))
    ready = unit if metric == "cosine" else np.ascontiguousarray
    queries = ready(vectors[chosen])
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for start in range(0, len(ids), _VECTORS_AT_ONCE):
        block: AnyVectors = ready(vectors[start : start + _VECTORS_AT_ONCE])
        for turned in (block,) if mirror is None else (block, block ^ mirror):
            rows_a, rows_b, scores = range_pairs(queries, turned, threshold, metric)
            id_a, id_b = ids[chosen[rows_a]], ids[start + rows_b]
            found.append((np.minimum(id_a, id_b), np.maximum(id_a, id_b), scores))
    id_a, id_b, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    return Pairs(*nearest_of_ids(id_a, id_b, scores))


def recall_of(true: Pairs, found: Pairs) -> Recall:
    """The share of the pairs `true` that are among `found`."""
    wanted, there = _unordered(true.id_a, true.id_b), _unordered(found.id_a, found.id_b)
    hits = int(np.isin(wanted, there).sum())
    return Recall(len(wanted), hits, *wilson(hits, len(wanted)))


def wilson(hits: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the share hits / n; (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    # At the ends the formula gives 0 and 1, its rounding does not.
    return (float(interval.low) if hits > 0 else 0.0), (float(interval.high) if hits < n else 1.0)


def _unordered(id_a: Ids, id_b: Ids) -> npt.NDArray[np.void]:
    """The pairs as one structured array, the smaller id first."""
    pairs = np.empty(len(id_a), [("a", np.int64), ("b", np.int64)])
    pairs["a"], pairs["b"] = np.minimum(id_a, id_b), np.maximum(id_a, id_b)
    return pairs
