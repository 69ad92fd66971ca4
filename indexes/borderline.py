"""The nearest of those that are not near enough: what a finer comparison should look at.

    B(a) = the k largest s(a, b), b != a, with low <= s(a, b) < high

A pair comes out where either of its ends has the other among its k. So there are at most k pairs a
row, however dense the set is.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from indexes.cells import Cells
from indexes.checks import checked, checked_ids
from indexes.errors import VectorError
from indexes.join import Pairs, sorted_pairs
from indexes.metrics import AnyVectors, Ids, Rows, Vectors, cosine_error, score_rows

_SPARE = 8  # candidates beyond k, for what float32 ranks wrongly
_QUERIES_AT_ONCE = 1 << 10
_ASKING_AT_ONCE = 1 << 15
_VECTORS_AT_ONCE = 1 << 15
_BY_SKETCH = 4  # a bound ranks more loosely than the product itself


def nearest_below(
    vectors: Vectors,
    ids: Ids,
    k: int,
    *,
    low: float,
    high: float,
    rows: slice | None = None,
    fresh: npt.NDArray[np.bool_] | None = None,
) -> Pairs:
    """The pairs of `rows`, by default of all rows of the unit `vectors` (n, d), with any other.

    With `fresh` (n,) these rows alone look for others, and `rows` counts them.
    """
    vectors = checked(vectors, "cosine")
    ids = _checked(ids, len(vectors), k, low, high)
    every = np.arange(len(ids)) if fresh is None else np.flatnonzero(fresh)
    asking = every[rows or slice(None)]
    found = [_Found.none()]
    error = cosine_error(vectors.shape[1])
    for start in range(0, len(asking), _QUERIES_AT_ONCE):
        some = asking[start : start + _QUERIES_AT_ONCE]
        best = _Best(some, k + _SPARE)
        for block in _blocks(np.arange(len(ids))):
            scores = vectors[some] @ vectors[block].T
            scores[scores >= high + error] = -np.inf
            best.offer(scores, block, low - error)
        found.append(_settled(vectors, ids, best, k, low, high))
    return _Found.joined(found).pairs(ids)


def cell_nearest_below(
    vectors: AnyVectors,
    ids: Ids,
    cells: Cells,
    k: int,
    *,
    low: float,
    high: float,
    owned: range | None = None,
    fresh: npt.NDArray[np.bool_] | None = None,
) -> Pairs:
    """The same for the rows stored in the cells `owned`, sought in all cells that they may visit.

    What is only similar is not kept apart by as little as a copy is, so no border is too far.
    Candidates are ranked by their sketches' bounds, 4 k of them a row, and scored exactly: so a row
    with more near-duplicates than that finds fewer of those below.
    """
    ids = _checked(ids, len(vectors), k, low, high)
    owned = range(len(cells)) if owned is None else owned
    home = cells.probes[:, 0]
    inside = (home >= owned.start) & (home < owned.stop)
    every = np.flatnonzero(inside if fresh is None else inside & fresh)
    stored = cells.stored(range(len(cells)))
    error = cosine_error(vectors.shape[1])
    found = [_Found.none()]
    for start in range(0, len(every), _ASKING_AT_ONCE):
        asking = every[start : start + _ASKING_AT_ONCE]
        best = _Best(asking, _BY_SKETCH * (k + _SPARE))
        visits = cells.visits(asking)
        for cell in range(len(cells)):
            places = visits.of(cell)
            for block in _blocks(stored.of(cell) if len(places) else places):
                bounds = cells.sketches[asking[places]] @ cells.sketches[block].T
                best.offer(bounds, block, low - error, places)
        found.append(_settled(vectors, ids, best, k, low, high))
    return _Found.joined(found).pairs(ids)


class _Best:
    """The candidates of some rows with the largest scores seen so far."""

    def __init__(self, asking: Rows, width: int) -> None:
        self.asking = asking
        self._scores = np.full((len(asking), width), -np.inf, np.float32)
        self._labels = np.full((len(asking), width), -1, np.int64)

    def offer(
        self, scores: Vectors, labels: Rows, least: float, places: Rows | None = None
    ) -> None:
        """Scores (q, m) of all asking rows, or of those at `places`, with the rows `labels`."""
        places = np.arange(len(self.asking)) if places is None else places
        scores[labels[None, :] == self.asking[places][:, None]] = -np.inf  # itself
        width = self._scores.shape[1]
        chosen = _largest(scores, width)
        largest = np.take_along_axis(scores, chosen, 1)
        largest[largest < least] = -np.inf  # not before: among many equals `_largest` is slow
        merged = np.concatenate([self._scores[places], largest], axis=1)
        names = np.concatenate([self._labels[places], labels[chosen]], axis=1)
        kept = _largest(merged, width)
        self._scores[places] = np.take_along_axis(merged, kept, 1)
        self._labels[places] = np.take_along_axis(names, kept, 1)

    def candidates(self) -> tuple[Rows, Rows]:
        """Pairs (asking row, row)."""
        at, place = np.nonzero(np.isfinite(self._scores))
        return self.asking[at], self._labels[at, place]


class _Found:
    """Rows a, rows b and exact scores."""

    def __init__(self, rows_a: Rows, rows_b: Rows, scores: npt.NDArray[np.float64]) -> None:
        self.columns = (rows_a, rows_b, scores)

    @classmethod
    def none(cls) -> "_Found":
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

    @classmethod
    def joined(cls, parts: list["_Found"]) -> "_Found":
        return cls(*map(np.concatenate, zip(*(part.columns for part in parts), strict=True)))

    def pairs(self, ids: Ids) -> Pairs:
        """Each once, by ids: both ends may have proposed it."""
        rows_a, rows_b, scores = self.columns
        id_a = np.minimum(ids[rows_a], ids[rows_b])
        id_b = np.maximum(ids[rows_a], ids[rows_b])
        _, first = np.unique(np.stack([id_a, id_b], axis=1), axis=0, return_index=True)
        return sorted_pairs(id_a[first], id_b[first], scores[first])


def _settled(vectors: AnyVectors, ids: Ids, best: _Best, k: int, low: float, high: float) -> _Found:
    """Of the candidates the k nearest by the exact score; ties go to the smallest id."""
    rows_a, rows_b = best.candidates()
    scores = score_rows("cosine", vectors, vectors, rows_a, rows_b)
    inside = (scores >= low) & (scores < high)
    rows_a, rows_b, scores = rows_a[inside], rows_b[inside], scores[inside]
    order = np.lexsort((ids[rows_b], -scores, rows_a))
    rows_a, rows_b, scores = rows_a[order], rows_b[order], scores[order]
    _, starts, counts = np.unique(rows_a, return_index=True, return_counts=True)
    rank = np.arange(len(rows_a)) - np.repeat(starts, counts)
    return _Found(rows_a[rank < k], rows_b[rank < k], scores[rank < k])


def _blocks(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), _VECTORS_AT_ONCE):
        yield rows[start : start + _VECTORS_AT_ONCE]


def _largest(scores: Vectors, count: int) -> Rows:
    """Columns of the `count` largest of each row, in no order."""
    if scores.shape[1] <= count:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, scores.shape[1] - count, axis=1)[:, -count:]


def _checked(ids: Ids, n: int, k: int, low: float, high: float) -> Ids:
    if k < 1 or not -1 <= low < high:
        raise VectorError(f"k {k}, from {low} to below {high}: at least 1, and a band of cosines")
    return checked_ids(ids, n)
