"""The self join of a set too large to compare all with all: k-means cells, each vector in several.

Every vector is stored in the cell of its nearest centroid and visits some of the m nearest others;
inside a cell each visitor is compared with everything stored there, first by sketches that lose no
pair (indexes.sketch), then exactly. A pair (a, b) is therefore found iff a visits b's cell or b
visits a's. With m = 1 (SemDeDup) up to a quarter of the near-duplicates fall on two sides of a
border and are lost.

A vector visits the cells whose border is near. With a the centroid of its own cell, and b another,

    g(x) = <x, a - b> / |a - b|

is its distance from the plane between the two. For x of the one cell and y of the other the two
distances add up to <x - y, a - b> / |a - b| <= |x - y|, so of a pair with cosine t or more, that is
at most e = sqrt(2 - 2 t) apart, one is within e / 2 of the plane: visits to the cells as near as
that lose no pair but those that m cuts off. The difference of two near-duplicates has many
directions, of which that of a - b is one, so that half of it (REACH) loses next to none. How many
depends on the descriptor and on the threshold: measure it (indexes.recall).

With c ~ sqrt(n) cells, assignment and comparison take n c + n m (n / c) inner products of
sketches at most, about n^1.5, where all pairs are n^2 / 2. Vectors may be a memory map in fp16:
beside one sketch a vector, no more than a cell and its visitors are in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import faiss
import numpy as np
import numpy.typing as npt

from indexes.centroids import TRAINED_ON, train_centroids
from indexes.checks import checked_ids, unit
from indexes.device import DeviceProducts
from indexes.errors import VectorError
from indexes.join import Pairs, require_few, sorted_pairs
from indexes.metrics import (
    AnyVectors,
    Ids,
    Rows,
    Scores,
    Vectors,
    cosine_error,
    near_enough,
    score_rows,
)
from indexes.sketch import fit_sketcher
from indexes.threads import faiss_threads

Probes = npt.NDArray[np.int32]
Margins = npt.NDArray[np.float16]
Found = tuple[Ids, Ids, Scores]

DEFAULT_PROBES = 32
REACH = 0.25
"""How near a border is near, as a share of the distance of two vectors at the threshold."""

SAMPLE = 1 << 15
"""Vectors that the sketches are fitted to."""

VISITORS_AT_ONCE, PROBES_AT_ONCE, CELLS_AT_ONCE = 1 << 10, 1 << 18, 1 << 10
"""How many visitors, rows of probes and cells of a part are in memory beside the sketches."""

_CELLS_A_ROOT = 4
_VECTORS_AT_ONCE = 1 << 14
_STORED_AT_ONCE = 1 << 13


@dataclass(frozen=True, eq=False)
class Cells:
    """Where the vectors of a set are stored and which cells they visit.

    sketches (n, p + 1); centroids (c, p + 1), of sketches; probes (n, m), the cells nearest to each
    vector, nearest first: probes[:, 0] is where it is stored; margins (n, m), how far the border
    with each is, 0 for the first.
    """

    sketches: Vectors
    centroids: Vectors
    probes: Probes
    margins: Margins

    def __len__(self) -> int:
        return len(self.centroids)

    def stored(self, cells: range) -> "Members":
        """The rows stored in each of `cells`."""
        return _members(self.probes[:, :1], self.margins[:, :1], cells, 0)

    def visitors(self, cells: range, within: float) -> "Members":
        """The rows that visit each of `cells`, those stored there among them.

        `within` is the greatest distance from a border that is crossed: `border_distance`.
        """
        return _members(self.probes, self.margins, cells, within)

    def visits(self, rows: Rows) -> "Members":
        """Which of `rows`, as places among them, have each cell among their probes."""
        return _members(self.probes[rows], self.margins[rows], range(len(self)), np.inf)


@dataclass(frozen=True, eq=False)
class Members:
    """Rows of consecutive cells; `of` a cell they ascend."""

    cells: range
    rows: npt.NDArray[np.unsignedinteger]
    ends: Rows

    def of(self, cell: int) -> Rows:
        """The rows of one cell."""
        place = cell - self.cells.start
        return self.rows[self.ends[place] : self.ends[place + 1]].astype(np.int64)


def default_cells(n: int) -> int:
    """How many cells n vectors are put into: 4 sqrt(n), at most n."""
    return max(1, min(n, round(_CELLS_A_ROOT * sqrt(n))))


def border_distance(threshold: float, d: int, reach: float = REACH) -> float:
    """How far from a border pairs of vectors (d,) with cosine >= threshold are sought."""
    radius = threshold - cosine_error(d)
    return reach * sqrt(max(0.0, 2 - 2 * radius))


def build_cells(
    vectors: AnyVectors,
    ids: Ids,
    *,
    cells: int | None = None,
    probes: int = DEFAULT_PROBES,
    seed: int = 0,
    threads: int = 1,
) -> Cells:
    """Cells of `vectors` (n, d), fp16 or fp32 and not necessarily of unit norm, under `ids` (n,).

    k-means is spherical and trained on a sample that depends on the ids and the seed, not on the
    order of rows. `threads` is part of what the result depends on.
    Raises VectorError for no vectors, and for no cells or probes.
    """
    ids = checked_ids(ids, len(vectors))
    count = min(cells or default_cells(len(ids)), len(ids))
    if count < 1 or probes < 1:
        raise VectorError(f"{len(ids)} vectors, {cells} cells, {probes} probes: all at least 1")
    ascending = np.argsort(ids)
    sketcher = fit_sketcher(_read(vectors, ascending[_some(len(ids), SAMPLE, seed)]))
    sketches = np.empty((len(ids), len(sketcher.basis) + 1), np.float32)
    probes_of = np.empty((len(ids), min(probes, count)), np.int32)
    margins = np.empty(probes_of.shape, np.float16)
    blocks = [slice(i, i + _VECTORS_AT_ONCE) for i in range(0, len(ids), _VECTORS_AT_ONCE)]
    with faiss_threads(threads):
        for block in blocks:
            sketches[block] = sketcher(unit(vectors[block]))
        sample = sketches[ascending[_some(len(ids), TRAINED_ON * count, seed)]]
        centroids = train_centroids(sample, count, seed)
        quantizer = faiss.IndexFlatIP(centroids.shape[1])
        quantizer.add(centroids)
        for block in blocks:
            products, probes_of[block] = quantizer.search(sketches[block], probes_of.shape[1])
            margins[block] = _margins(products, probes_of[block], centroids)
    return Cells(sketches, centroids, probes_of, margins)


def cell_join(
    vectors: AnyVectors,
    ids: Ids,
    cells: Cells,
    threshold: float,
    *,
    owned: range | None = None,
    device: str | None = None,
    max_pairs: int | None = None,
    fresh: npt.NDArray[np.bool_] | None = None,
    reach: float = REACH,
) -> Pairs:
    """Pairs with cosine >= threshold that are found in the cells of `owned`, by default all.

    For any division of the cells each pair comes out once: one found in two cells belongs to the
    lower of them. With `fresh` (n,) only the pairs that one of these rows is in. On a `device` of
    torch ("cuda") whole vectors are compared, not sketches; the result is the same. Raises
    VectorError for a device that is not there, TooManyPairs where more than `max_pairs` are found.
    """
    ids = checked_ids(ids, len(vectors))
    within = border_distance(threshold, vectors.shape[1], reach)
    radius = threshold - cosine_error(vectors.shape[1])
    products = None if device is None else DeviceProducts(vectors, device)
    found: list[Found] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    total = 0
    for cell, visiting, stored in _populated(cells, owned, within):
        for guests, hosts in _new_with_all(visiting, stored, fresh):
            proposed = (
                _candidates(cells.sketches, guests, hosts, radius)
                if products is None
                else [products.near(guests, hosts, threshold)]
            )
            for guest, host in proposed:
                mine = _belongs(cell, guest, host, ids, cells, within)
                found.append(_near_pairs(vectors, ids, guest[mine], host[mine], threshold))
                total += len(found[-1][0])
                require_few(total, max_pairs, found[-1][0])
    id_a, id_b, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    return sorted_pairs(id_a, id_b, scores)


def _populated(
    cells: Cells, owned: range | None, within: float
) -> Iterator[tuple[int, Rows, Rows]]:
    """Each owned cell, who visits it and who is stored there."""
    owned = range(len(cells)) if owned is None else owned
    for start in range(owned.start, owned.stop, CELLS_AT_ONCE):
        some = range(start, min(start + CELLS_AT_ONCE, owned.stop))
        visitors, stored = cells.visitors(some, within), cells.stored(some)
        for cell in some:
            yield cell, visitors.of(cell), stored.of(cell)


def _near_pairs(vectors: AnyVectors, ids: Ids, guest: Rows, host: Rows, threshold: float) -> Found:
    """Those of the pairs of rows that are near by the exact score."""
    scores = score_rows("cosine", vectors, vectors, guest, host)
    near = near_enough("cosine", scores, threshold)
    id_guest, id_host = ids[guest[near]], ids[host[near]]
    return np.minimum(id_guest, id_host), np.maximum(id_guest, id_host), scores[near]


def _new_with_all(
    visiting: Rows, stored: Rows, fresh: npt.NDArray[np.bool_] | None
) -> list[tuple[Rows, Rows]]:
    """Who is compared with whom: all with all, or fresh ones with all."""
    if fresh is None:
        return [(visiting, stored)]
    new = fresh[visiting]
    return [(visiting[new], stored), (visiting[~new], stored[fresh[stored]])]


def _candidates(
    sketches: Vectors, visiting: Rows, stored: Rows, radius: float
) -> Iterator[tuple[Rows, Rows]]:
    """Visitors and stored rows whose sketches allow an inner product of `radius`, in blocks."""
    for first in range(0, len(stored), _STORED_AT_ONCE):
        hosts = stored[first : first + _STORED_AT_ONCE]
        kept = sketches[hosts]
        for start in range(0, len(visiting), VISITORS_AT_ONCE):
            some = visiting[start : start + VISITORS_AT_ONCE]
            bounds = sketches[some] @ kept.T
            places, others = np.divmod(np.flatnonzero(bounds >= radius), len(hosts))
            guest, host = some[places], hosts[others]
            apart = guest != host  # most of what is found in a cell is each row itself
            if apart.any():
                yield guest[apart], host[apart]


def _belongs(
    cell: int, guest: Rows, host: Rows, ids: Ids, cells: Cells, within: float
) -> npt.NDArray[np.bool_]:
    """Whether a pair found in `cell`, where `host` is stored, comes out here and not elsewhere."""
    home = cells.probes[guest, 0]
    visits = (cells.probes[host] == home[:, None]) & (cells.margins[host] <= within)
    elsewhere = visits.any(axis=1)  # found in home, too
    return np.where(home == cell, ids[guest] < ids[host], ~elsewhere | (cell < home))


def _margins(products: Vectors, probes: Probes, centroids: Vectors) -> Margins:
    """How far the border between each vector's own cell and each of its probes is, (n, m)."""
    margins = np.zeros(products.shape, np.float32)
    for start in range(0, len(probes), VISITORS_AT_ONCE):
        some = slice(start, start + VISITORS_AT_ONCE)
        apart = centroids[probes[some]]
        apart -= apart[:, :1].copy()
        lengths = np.sqrt(np.einsum("nmp,nmp->nm", apart, apart))
        gaps = products[some, :1] - products[some]
        np.divide(gaps, lengths, out=margins[some], where=lengths > 0)
    return margins.astype(np.float16)


def _members(probes: Probes, margins: Margins, cells: range, within: float) -> Members:
    """The rows with probes `within` reach among `cells`; beside these a block is held.

    Numbers are as short as can be: sixteen bits are sorted in linear time.
    """
    row, place = np.min_scalar_type(len(probes)), np.min_scalar_type(len(cells))
    rows, places = [np.zeros(0, row)], [np.zeros(0, place)]
    for start in range(0, len(probes), PROBES_AT_ONCE):
        block = probes[start : start + PROBES_AT_ONCE]
        near = margins[start : start + PROBES_AT_ONCE] <= within
        chosen = np.flatnonzero(near & (block >= cells.start) & (block < cells.stop))
        rows.append((start + chosen // block.shape[1]).astype(row))
        places.append((block.ravel()[chosen] - cells.start).astype(place))
    all_places = np.concatenate(places)
    ends = np.concatenate([[0], np.cumsum(np.bincount(all_places, minlength=len(cells)))])
    return Members(cells, np.concatenate(rows)[np.argsort(all_places, kind="stable")], ends)


def _some(n: int, size: int, seed: int) -> Rows:
    """At most `size` of n places, ascending."""
    return np.sort(np.random.default_rng(seed).choice(n, min(size, n), replace=False))


def _read(vectors: AnyVectors, rows: Rows) -> Vectors:
    """Unit vectors of `rows`; read in ascending order, from disk."""
    order = np.argsort(rows)
    found = np.empty((len(rows), vectors.shape[1]), np.float32)
    found[order] = unit(vectors[rows[order]])
    return found
