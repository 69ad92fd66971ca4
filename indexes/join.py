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
from itertools import product

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
    hamming,
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
    owned = _owned(ids, rows, fresh)
    if index is None:
        return sorted_pairs(*_scan(vectors, ids, threshold, owned, "cosine", max_pairs, fresh))
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
    mirror: Codes | None = None,
    rows: slice | None = None,
    max_pairs: int | None = None,
    fresh: Mask | None = None,
) -> Pairs:
    """Pairs of ids whose codes, uint8 (n, 32), differ in at most `max_distance` bits.

    An id may have several codes, and two ids are as near as the nearest two of theirs. With
    `mirror` (32,) a code also stands for itself xor `mirror`. Similarity is 1 - distance / 256.

    `rows`, `max_pairs` and `fresh` are as in `self_join`, `rows` counting ids in the order in which
    they first appear, and `max_pairs` pairs of codes. No pair is missed: a code is compared with
    all later ones, or where these are many with those that may be near (indexes.multi_index); fresh
    ones with all.
    """
    codes, ids = checked(codes, "hamming"), checked_ids(ids, len(codes), repeats=True)
    owned = _owned(ids, rows, fresh)
    if mirror is not None:  # h(a, b ^ mirror) = h(a ^ mirror, b): one of the two need not ask
        codes, ids = np.concatenate([codes, codes ^ mirror]), np.tile(ids, 2)
        fresh = None if fresh is None else np.tile(fresh, 2)
    if fresh is not None:
        return _of_ids(*_scan(codes, ids, max_distance, owned, "hamming", max_pairs, fresh))
    ascending = np.argsort(ids, kind="stable")  # of one id those that ask come first
    codes, ids = codes[ascending], ids[ascending]
    owned = np.flatnonzero(np.isin(ascending, owned))
    rows_a, rows_b, crowded = later_neighbours(codes, owned, max_distance)
    require_few(len(rows_a), max_pairs, ids[rows_a])
    found = ids[rows_a], ids[rows_b], score_rows("hamming", codes, codes, rows_a, rows_b)
    scanned = _scan(codes, ids, max_distance, crowded, "hamming", max_pairs, None)
    return _of_ids(*(np.concatenate(column) for column in zip(found, scanned, strict=True)))


def least_hamming(
    codes: Codes, ids: Ids, id_a: Ids, id_b: Ids, *, mirror: Codes | None = None
) -> Scores:
    """In how many bits id_a[i] and id_b[i] differ, as in `hamming_join`; infinite without a code.

    codes (n, 32) and ids (n,) are the whole set, an id with several codes being in several rows.
    """
    ids = checked_ids(ids, len(codes), repeats=True)
    ascending = np.argsort(ids, kind="stable")
    codes, ids = checked(codes, "hamming")[ascending], ids[ascending]
    least = np.full(len(id_a), np.inf)
    known = np.flatnonzero(np.isin(id_a, ids) & np.isin(id_b, ids))
    a, b = (codes[_rows_of_each(wanted[known], ids)] for wanted in (id_a, id_b))
    for one, other in product(a, b):
        for turned in (other,) if mirror is None else (other, other ^ mirror):
            least[known] = np.minimum(least[known], hamming(one, turned))
    return least


def _rows_of_each(wanted: Ids, ascending: Ids) -> Rows:
    """The rows (k, n) of each wanted id, of which the one with most has k; others repeat one."""
    first = np.searchsorted(ascending, wanted)
    last = np.searchsorted(ascending, wanted, "right") - 1
    steps = np.arange((last - first).max(initial=0) + 1)
    return np.minimum(first + steps[:, None], last)


def nearest_of_ids(id_a: Ids, id_b: Ids, distance: Scores) -> tuple[Ids, Ids, Scores]:
    """Each pair of different ids once, sorted, at its least distance; id_a <= id_b."""
    order = np.lexsort((distance, id_b, id_a))
    id_a, id_b, distance = id_a[order], id_b[order], distance[order]
    first = np.ones(len(order), bool)
    first[1:] = (id_a[1:] != id_a[:-1]) | (id_b[1:] != id_b[:-1])
    first &= id_a != id_b
    return id_a[first], id_b[first], distance[first]


def _of_ids(id_a: Ids, id_b: Ids, distance: Scores) -> Pairs:
    id_a, id_b, distance = nearest_of_ids(id_a, id_b, distance)
    return Pairs(id_a, id_b, 1 - distance / BITS)


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


def _owned(ids: Ids, rows: slice | None, fresh: Mask | None) -> Rows:
    """The rows of the ids that `rows` counts: of all, or of the fresh ones."""
    every = np.arange(len(ids)) if fresh is None else np.flatnonzero(fresh)
    if rows is None:
        return every
    _, first = np.unique(ids[every], return_index=True)
    chosen = ids[every[np.sort(first)]][rows]
    return every[np.isin(ids[every], chosen)]


def _scan(
    vectors: AnyVectors,
    ids: Ids,
    threshold: float,
    owned: Rows,
    metric: Metric,
    most: int | None,
    fresh: Mask | None,
) -> tuple[Ids, Ids, Scores]:
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
    return id_a, id_b, scores


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
