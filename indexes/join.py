"""The self join: all pairs of a set that are near-duplicates of each other.

    {(a, b, s) : id_a < id_b, s = nearness(a, b) >= threshold}

It can be done in parts: a part owns some rows, and a pair belongs to the part that owns the smaller
id. So for any split of the rows each pair comes out exactly once, and the union does not depend on
the split, on row order or on block size. Scores are recomputed in float64 from the given vectors.

n exact copies make n (n - 1) / 2 pairs. Collapse them first (`exact_classes`), join the centres,
and add the copies as a star (`stars`): n - 1 pairs.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexes.binary import BITS
from indexes.checks import checked, checked_ids, rows_of
from indexes.errors import TooManyPairs, VectorError
from indexes.exact import block_pairs
from indexes.metrics import (
    AnyVectors,
    Codes,
    Ids,
    Metric,
    Rows,
    Scores,
    Vectors,
    near_enough,
    score_rows,
)
from indexes.multi_index import later_neighbours
from indexes.nearest import NearestIndex
from indexes.radius import within

_VECTORS_AT_ONCE = 1 << 15

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Unordered pairs, id_a < id_b, sorted by (id_a, id_b): three arrays of one length."""

    id_a: Ids
    id_b: Ids
    similarity: Scores

    def __len__(self) -> int:
        return len(self.id_a)


def sorted_pairs(id_a: Ids, id_b: Ids, similarity: Scores) -> Pairs:
    """The pairs in the order of `Pairs`."""
    order = np.lexsort((id_b, id_a))
    return Pairs(id_a[order], id_b[order], similarity[order])


def self_join(
    vectors: Vectors,
    ids: Ids,
    threshold: float,
    *,
    rows: slice | None = None,
    index: NearestIndex | None = None,
    max_pairs: int | None = None,
    fresh: Mask | None = None,
) -> Pairs:
    """Pairs with cosine >= threshold whose smaller id is in `rows`, by default all.

    vectors (n, d) of unit norm and ids (n,) are the whole set, `rows` the part of it. Without an
    index all pairs are compared and none is missed; with one, built over the same set, only
    what its search proposes (`measured_recall` says what that misses).

    With `fresh` (n,) only the pairs that one of these rows is in: then `rows` counts fresh rows in
    their order, and a pair with an old row belongs to its fresh one. Raises TooManyPairs where more
    than `max_pairs` are found. Both without an index.
    """
    vectors = checked(vectors, "cosine")
    ids = checked_ids(ids, len(vectors))
    owned = _owned(len(ids), rows, fresh)
    if index is None:
        return _exact_join(vectors, ids, threshold, owned, "cosine", max_pairs, fresh)
    if index.metric != "cosine" or not np.array_equal(index.ids, np.sort(ids)):
        raise VectorError(
            "the index holds other ids or another metric; build it over these vectors"
        )
    queries = np.ascontiguousarray(vectors[owned])
    query_rows, found = within(index.faiss_index, queries, threshold, "cosine")
    later = found > ids[owned[query_rows]]
    rows_a, rows_b = owned[query_rows[later]], rows_of(found[later], ids)
    scores = score_rows("cosine", vectors, vectors, rows_a, rows_b)
    near = near_enough("cosine", scores, threshold)
    return sorted_pairs(ids[rows_a[near]], ids[rows_b[near]], scores[near])


def hamming_join(
    codes: Codes,
    ids: Ids,
    max_distance: int,
    *,
    rows: slice | None = None,
    max_pairs: int | None = None,
    fresh: Mask | None = None,
) -> Pairs:
    """Pairs of codes, uint8 (n, 32), that differ in at most `max_distance` bits.

    Similarity is 1 - distance / 256; `rows`, `max_pairs` and `fresh` are as in `self_join`. No pair
    is missed: a code is compared with all later ones, or where these are many with those that may
    be near (indexes.multi_index); fresh ones with all.
    """
    codes, ids = checked(codes, "hamming"), checked_ids(ids, len(codes))
    owned = _owned(len(ids), rows, fresh)
    if fresh is not None:
        every = _exact_join(codes, ids, max_distance, owned, "hamming", max_pairs, fresh)
        return Pairs(every.id_a, every.id_b, 1 - every.similarity / BITS)
    ascending = np.argsort(ids)
    codes, ids = codes[ascending], ids[ascending]
    owned = np.flatnonzero(np.isin(ascending, owned))
    rows_a, rows_b, crowded = later_neighbours(codes, owned, max_distance)
    require_few(len(rows_a), max_pairs, ids[rows_a])
    scores = score_rows("hamming", codes, codes, rows_a, rows_b)
    scanned = _exact_join(codes, ids, max_distance, crowded, "hamming", max_pairs, None)
    if not len(rows_a):  # sorted already
        return Pairs(scanned.id_a, scanned.id_b, 1 - scanned.similarity / BITS)
    id_a = np.concatenate([ids[rows_a], scanned.id_a])
    id_b = np.concatenate([ids[rows_b], scanned.id_b])
    distance = np.concatenate([scores, scanned.similarity])
    return sorted_pairs(id_a, id_b, 1 - distance / BITS)


def exact_classes(keys: Sequence[Hashable] | Rows, ids: Ids) -> Ids:
    """The centre of each id's class of exact copies: the smallest id with an equal key.

    Keys are hashes, or numbers (n,) that stand for them.
    """
    ids = checked_ids(ids, len(keys))
    if not isinstance(keys, np.ndarray):
        numbers: dict[Hashable, int] = {}
        keys = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    _, code = np.unique(keys, return_inverse=True)
    centre = np.full(len(ids), np.iinfo(np.int64).max)
    np.minimum.at(centre, code, ids)
    return np.asarray(centre[code])


def stars(keys: Sequence[Hashable] | Rows, ids: Ids) -> Pairs:
    """Each exact copy paired with the centre of its class, similarity 1; n copies make n - 1."""
    centres = exact_classes(keys, ids)
    copies = centres != ids
    return sorted_pairs(centres[copies], np.asarray(ids)[copies], np.ones(copies.sum()))


def _owned(n: int, rows: slice | None, fresh: Mask | None) -> Rows:
    """The rows that `rows` counts: of all, or of the fresh ones."""
    every = np.arange(n) if fresh is None else np.flatnonzero(fresh)
    return every[rows or slice(None)]


def _exact_join(
    vectors: AnyVectors,
    ids: Ids,
    threshold: float,
    owned: Rows,
    metric: Metric,
    most: int | None,
    fresh: Mask | None,
) -> Pairs:
    """Blocks of ascending ids, each against the owned rows that may own a pair with it."""
    ascending = np.argsort(ids)
    old = np.zeros(len(ids), bool) if fresh is None else ~fresh
    owned = owned[np.argsort(ids[owned])]
    found, total = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))], 0
    for start in range(0, len(ids), _VECTORS_AT_ONCE):
        block = ascending[start : start + _VECTORS_AT_ONCE]
        asking = owned[(ids[owned] < ids[block[-1]]) | old[block].any()]
        for first in range(0, len(asking), _VECTORS_AT_ONCE):
            some = asking[first : first + _VECTORS_AT_ONCE]
            found.append(_later_pairs(vectors, ids, some, block, threshold, metric, most, old))
            total += len(found[-1][0])
            require_few(total, most, found[-1][0])
    id_a, id_b, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    return sorted_pairs(id_a, id_b, scores)


def _later_pairs(
    vectors: AnyVectors,
    ids: Ids,
    asking: Rows,
    block: Rows,
    threshold: float,
    metric: Metric,
    most: int | None,
    old: Mask,
) -> tuple[Ids, Ids, Scores]:
    """Each pair comes up twice where a row is asked for and in the block."""
    twice = None if most is None else 2 * most + len(asking)
    try:
        rows, places, scores = block_pairs(
            vectors[asking], vectors[block], threshold, metric, twice
        )
    except TooManyPairs as error:
        raise TooManyPairs(most or 0, int(ids[asking[error.centre]])) from error
    id_a, id_b = ids[asking[rows]], ids[block[places]]
    later = (id_b > id_a) | old[block[places]]
    low, high = np.minimum(id_a, id_b), np.maximum(id_a, id_b)
    return low[later], high[later], scores[later]


def require_few(total: int, most: int | None, latest: Ids) -> None:
    """Raise TooManyPairs for a `total` above `most`, with the id most frequent in `latest`."""
    if most is not None and total > most:
        values, counts = np.unique(latest, return_counts=True)
        raise TooManyPairs(most, int(values[counts.argmax()]))
