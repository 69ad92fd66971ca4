"""How many of the true pairs a join found, measured on a random sample of ids.

For m sampled ids an exact scan lists every pair that one of them is in; recall is the share of
these that the join found, with the 95 % interval of Wilson (1927, JASA 22).

Pairs that share an id are not independent, so with few large groups the interval is too narrow.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from indexes.checks import checked, checked_ids
from indexes.exact import range_pairs
from indexes.join import Pairs
from indexes.metrics import AnyVectors, Ids, Metric


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
    sample: int = 1000,
    seed: int = 0,
) -> Recall:
    """Recall of `pairs`, a join of the whole set, among all pairs of `sample` ids.

    `threshold` is the one joined at: a cosine, or for "hamming" a number of bits. The sample is of
    ids, by seed, whatever the order of rows.
    """
    vectors = checked(vectors, metric)
    ids = checked_ids(ids, len(vectors))
    ascending = np.argsort(ids)
    size = min(sample, len(ids))
    chosen = ascending[np.random.default_rng(seed).choice(len(ids), size, replace=False)]
    rows_a, rows_b, _ = range_pairs(vectors[chosen], vectors, threshold, metric)
    true = _unordered(ids[chosen[rows_a]], ids[rows_b])
    found = _unordered(pairs.id_a, pairs.id_b)
    hits = len(true) - len(np.setdiff1d(true, found, assume_unique=True))
    return Recall(len(true), hits, *wilson(hits, len(true)))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of the share hits / n; (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _unordered(id_a: Ids, id_b: Ids) -> npt.NDArray[np.void]:
    """Distinct pairs of distinct ids, the smaller first, as one structured array."""
    pairs = np.empty(len(id_a), [("a", np.int64), ("b", np.int64)])
    pairs["a"], pairs["b"] = np.minimum(id_a, id_b), np.maximum(id_a, id_b)
    return np.unique(pairs[id_a != id_b])
