"""The self join of a set too large to compare all with all: k-means cells, each vector in several.

Every vector is stored in the cell of its nearest centroid and visits its m nearest ones; inside a
cell each visitor is compared with everything stored there, first by sketches that lose no pair
(indexes.sketch), then exactly. A pair (a, b) is therefore found iff a visits b's cell or b visits
a's. With m = 1 (SemDeDup) up to a quarter of the near-duplicates fall on two sides of a border and
are lost. How many are lost depends on the descriptor and on the threshold, so measure it
(indexes.recall).

With c ~ sqrt(n) cells, assignment and comparison take n c + n m (n / c) inner products of
sketches, about n^1.5, where all pairs are n^2 / 2. Vectors may be a memory map in fp16: beside one
sketch a vector, no more than a cell and its visitors are in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import faiss
import numpy as np
import numpy.typing as npt

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
Found = tuple[Ids, Ids, Scores]

DEFAULT_PROBES = 16
_TRAINED_ON = 64  # vectors a centroid
_LEAST_SAMPLE = 10_000
_ITERATIONS = 10
_VECTORS_AT_ONCE = 1 << 14
_VISITORS_AT_ONCE = 1 << 12
_PROBES_AT_ONCE = 1 << 18
_STORED_AT_ONCE = 1 << 13


@dataclass(frozen=True, eq=False)
class Cells:
    """Where the vectors of a set are stored and which cells they visit.

    sketches (n, p + 1); centroids (c, p + 1), of sketches; probes (n, m), the cells nearest to each
    vector, nearest first: probes[:, 0] is where it is stored.
    """

    sketches: Vectors
    centroids: Vectors
    probes: Probes

    def __len__(self) -> int:
        return len(self.centroids)

    def stored(self, cells: range) -> "Members":
        """The rows stored in each of `cells`."""
        return _members(self.probes[:, :1], cells)

    def visitors(self, cells: range) -> "Members":
        """The rows that visit each of `cells`, those stored there among them."""
        return _members(self.probes, cells)


@dataclass(frozen=True, eq=False)
class Members:
    """Rows of consecutive cells; `of` a cell they ascend."""

    cells: range
    rows: Rows
    ends: Rows

    def of(self, cell: int) -> Rows:
        """The rows of one cell."""
        place = cell - self.cells.start
        return self.rows[self.ends[place] : self.ends[place + 1]]


def default_cells(n: int) -> int:
    """How many cells n vectors are put into: sqrt(n)."""
    return max(1, round(sqrt(n)))


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
    sample = _sample(vectors, ids, max(_LEAST_SAMPLE, _TRAINED_ON * count), seed)
    sketcher = fit_sketcher(sample)
    sketches = np.empty((len(ids), len(sketcher.basis) + 1), np.float32)
    nearest = np.empty((len(ids), min(probes, count)), np.int32)
    with faiss_threads(threads):
        centroids = _trained(sketcher(sample), count, seed)
        quantizer = faiss.IndexFlatIP(centroids.shape[1])
        quantizer.add(centroids)
        for start in range(0, len(ids), _VECTORS_AT_ONCE):
            block = slice(start, start + _VECTORS_AT_ONCE)
            sketches[block] = sketcher(unit(vectors[block]))
            _, nearest[block] = quantizer.search(sketches[block], nearest.shape[1])
    return Cells(sketches, centroids, nearest)


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
) -> Pairs:
    """Pairs with cosine >= threshold that are found in the cells of `owned`, by default all.

    For any division of the cells each pair comes out once: one found in two cells belongs to the
    lower of them. With `fresh` (n,) only the pairs that one of these rows is in. On a `device` of
    torch ("cuda") whole vectors are compared, not sketches; the result is the same. Raises
    VectorError for a device that is not there, TooManyPairs where more than `max_pairs` are found.
    """
    ids = checked_ids(ids, len(vectors))
    owned = range(len(cells)) if owned is None else owned
    stored, visitors = cells.stored(owned), cells.visitors(owned)
    radius = threshold - cosine_error(vectors.shape[1])
    products = None if device is None else DeviceProducts(vectors, device)
    found: list[Found] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    total = 0
    for cell in owned:
        for guests, hosts in _new_with_all(visitors.of(cell), stored.of(cell), fresh):
            proposed = (
                _candidates(cells.sketches, guests, hosts, radius)
                if products is None
                else [products.near(guests, hosts, threshold)]
            )
            for guest, host in proposed:
                mine = _belongs(cell, guest, host, ids, cells)
                found.append(_near_pairs(vectors, ids, guest[mine], host[mine], threshold))
                total += len(found[-1][0])
                require_few(total, max_pairs, found[-1][0])
    id_a, id_b, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    return sorted_pairs(id_a, id_b, scores)


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
        for start in range(0, len(visiting), _VISITORS_AT_ONCE):
            some = visiting[start : start + _VISITORS_AT_ONCE]
            bounds = sketches[some] @ kept.T
            guest, host = np.divmod(np.flatnonzero(bounds >= radius), len(hosts))
            if len(guest):
                yield some[guest], hosts[host]


def _belongs(cell: int, guest: Rows, host: Rows, ids: Ids, cells: Cells) -> npt.NDArray[np.bool_]:
    """Whether a pair found in `cell`, where `host` is stored, comes out here and not elsewhere."""
    home = cells.probes[guest, 0]
    elsewhere = (cells.probes[host] == home[:, None]).any(axis=1)  # found in home, too
    return np.where(home == cell, ids[guest] < ids[host], ~elsewhere | (cell < home))


def _members(probes: Probes, cells: range) -> Members:
    """The rows whose probes are among `cells`; beside these a block of the probes is held."""
    rows, places = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start in range(0, len(probes), _PROBES_AT_ONCE):
        flat = probes[start : start + _PROBES_AT_ONCE].ravel()
        chosen = np.flatnonzero((flat >= cells.start) & (flat < cells.stop))  # before any sorting
        rows.append(start + chosen // probes.shape[1])
        places.append(flat[chosen].astype(np.int64) - cells.start)
    all_places = np.concatenate(places)
    order = np.argsort(all_places, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(all_places, minlength=len(cells)))])
    return Members(cells, np.concatenate(rows)[order], ends)


def _sample(vectors: AnyVectors, ids: Ids, size: int, seed: int) -> Vectors:
    """Unit vectors of some ids, in the order of these; read in the order of rows, from disk."""
    size = min(size, len(ids))
    chosen = np.random.default_rng(seed).choice(len(ids), size, replace=False)
    rows = np.argsort(ids)[np.sort(chosen)]
    order = np.argsort(rows)
    sample = np.empty((size, vectors.shape[1]), np.float32)
    sample[order] = unit(vectors[rows[order]])
    return sample


def _trained(sketches: Vectors, count: int, seed: int) -> Vectors:
    kmeans = faiss.Kmeans(
        sketches.shape[1],
        count,
        niter=_ITERATIONS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_TRAINED_ON,
    )
    kmeans.train(sketches)
    return unit(np.asarray(kmeans.centroids))
