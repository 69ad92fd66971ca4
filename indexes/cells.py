"""The self join of a set too large to compare all with all: k-means cells, each vector in several.

Every vector is stored in the cell of its nearest centroid and visits its m nearest ones; inside a
cell each visitor is compared exactly with everything stored there. A pair (a, b) is therefore found
iff a visits b's cell or b visits a's. With m = 1 up to a quarter of the near-duplicates fall on two
sides of a border and are lost (as in SemDeDup); with m = 4 nearly none. What is lost depends on the
descriptor and on the threshold, so measure it (indexes.measured_recall).

With c ~ sqrt(n) cells, assignment and comparison take n c + n m (n / c) inner products, about
n^1.5 where all pairs are n^2 / 2. Vectors may be a memory map in fp16: no more than one cell and
its visitors are in memory at a time.
"""

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import faiss
import numpy as np
import numpy.typing as npt

from indexes.checks import checked_ids, unit
from indexes.errors import VectorError
from indexes.exact import block_pairs
from indexes.join import Pairs, sorted_pairs
from indexes.metrics import AnyVectors, Ids, Rows, Scores, Vectors
from indexes.threads import faiss_threads

Probes = npt.NDArray[np.int32]

DEFAULT_PROBES = 4
_TRAINED_ON = 64  # vectors a centroid
_ITERATIONS = 10
_VECTORS_AT_ONCE = 1 << 14


@dataclass(frozen=True, eq=False)
class Cells:
    """Where the vectors of a set are stored and which cells they visit.

    centroids (c, d) of unit norm; probes (n, m), the cells nearest to each vector, nearest first:
    probes[:, 0] is where it is stored.
    """

    centroids: Vectors
    probes: Probes

    def __len__(self) -> int:
        return len(self.centroids)

    def stored(self, cell: int) -> Rows:
        """The rows stored in a cell, ascending."""
        rows, ends = self._stored
        return rows[ends[cell] : ends[cell + 1]]

    def visitors(self, cell: int) -> Rows:
        """The rows that visit a cell, those stored there among them, ascending."""
        rows, ends = self._visits
        return rows[ends[cell] : ends[cell + 1]]

    @cached_property
    def _stored(self) -> tuple[Rows, Rows]:
        return _by_cell(self.probes[:, :1], len(self))

    @cached_property
    def _visits(self) -> tuple[Rows, Rows]:
        return _by_cell(self.probes, len(self))


def default_cells(n: int) -> int:
    """How many cells n vectors are put into: 2 sqrt(n)."""
    return max(1, round(2 * sqrt(n)))


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
    with faiss_threads(threads):
        centroids = _trained(vectors, ids, count, seed)
        quantizer = faiss.IndexFlatIP(centroids.shape[1])
        quantizer.add(centroids)
        nearest = np.empty((len(ids), min(probes, count)), np.int32)
        for start in range(0, len(ids), _VECTORS_AT_ONCE):
            block = slice(start, start + _VECTORS_AT_ONCE)
            _, nearest[block] = quantizer.search(unit(vectors[block]), nearest.shape[1])
    return Cells(centroids, nearest)


def cell_join(
    vectors: AnyVectors, ids: Ids, cells: Cells, threshold: float, *, owned: range | None = None
) -> Pairs:
    """Pairs with cosine >= threshold that are found in the cells of `owned`, by default all.

    For any division of the cells each pair comes out once: one found in two cells belongs to the
    lower of them.
    """
    ids = checked_ids(ids, len(vectors))
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for cell in owned if owned is not None else range(len(cells)):
        found.append(_pairs_in(cell, vectors, ids, cells, threshold))
    id_a, id_b, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    return sorted_pairs(id_a, id_b, scores)


def _pairs_in(
    cell: int, vectors: AnyVectors, ids: Ids, cells: Cells, threshold: float
) -> tuple[Ids, Ids, Scores]:
    stored, visiting = cells.stored(cell), cells.visitors(cell)
    queries = _directions(vectors[visiting])
    kept = queries[np.searchsorted(visiting, stored)]
    query_rows, rows, scores = block_pairs(queries, kept, threshold, "cosine")
    guest, host = visiting[query_rows], stored[rows]
    mine = _belongs(cell, guest, host, ids, cells)
    id_guest, id_host = ids[guest[mine]], ids[host[mine]]
    return np.minimum(id_guest, id_host), np.maximum(id_guest, id_host), scores[mine]


def _directions(vectors: AnyVectors) -> Vectors:
    """`unit` in float32, for vectors that have passed it: a fifth of its time."""
    scaled = np.ascontiguousarray(vectors, np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))
    return scaled / norms[:, None]


def _belongs(cell: int, guest: Rows, host: Rows, ids: Ids, cells: Cells) -> npt.NDArray[np.bool_]:
    """Whether a pair found in `cell`, where `host` is stored, comes out here and not elsewhere."""
    home = cells.probes[guest, 0]
    elsewhere = (cells.probes[host] == home[:, None]).any(axis=1)  # found in home, too
    return np.where(home == cell, ids[guest] < ids[host], ~elsewhere | (cell < home))


def _by_cell(probes: Probes, count: int) -> tuple[Rows, Rows]:
    """Rows sorted by cell, ascending inside one, and where each cell ends."""
    flat = probes.ravel()
    order = np.argsort(flat, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(flat, minlength=count))])
    return order // probes.shape[1], ends


def _trained(vectors: AnyVectors, ids: Ids, count: int, seed: int) -> Vectors:
    size = min(len(ids), _TRAINED_ON * count)
    sample = np.random.default_rng(seed).choice(len(ids), size, replace=False)
    rows = np.argsort(ids)[np.sort(sample)]
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=_ITERATIONS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_TRAINED_ON,
    )
    kmeans.train(_gathered(vectors, rows))
    return unit(np.asarray(kmeans.centroids))


def _gathered(vectors: AnyVectors, rows: Rows) -> Vectors:
    """The unit vectors of `rows`; read in ascending order, which is kind to a memory map."""
    order = np.argsort(rows)
    gathered = np.empty((len(rows), vectors.shape[1]), np.float32)
    gathered[order] = unit(vectors[rows[order]])
    return gathered
