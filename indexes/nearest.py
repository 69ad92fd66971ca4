"""An index with its ids: what is near this vector, among all rows or among those allowed.

    index = indexes.build(vectors, ids, metric="cosine")
    similarity, neighbour = index.search(queries, 5)

A FAISS IDMap2 around a Flat, IVF or BinaryFlat index; no other kind is taken. HNSW in particular is
not, because its range search aborts the process on large batches.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from indexes import exact
from indexes.checks import checked, places_of, unit
from indexes.errors import VectorError
from indexes.metrics import AnyVectors, Ids, Metric, Rows, Scores, near_enough, score_rows
from indexes.radius import within
from indexes.ranking import Nearest, top_k


@dataclass(frozen=True, eq=False)
class NearestIndex:
    """Vectors under 63-bit ids, searchable by nearness; `build` or `load` makes one.

    `ids` ascend, and row i of the FAISS index inside is the vector of ids[i]. `fingerprint` names
    the encoder that made the vectors, so that one cannot be searched with another's. Scores are
    those of the vectors as stored: exact for "Flat" lists, of the compressed ones for SQ and PQ.
    """

    faiss_index: Any
    ids: Ids
    metric: Metric
    factory: str
    fingerprint: str = ""

    @property
    def ntotal(self) -> int:
        """How many vectors the index holds."""
        return len(self.ids)

    @property
    def d(self) -> int:
        """Width of a vector; for "hamming" in bits."""
        return int(self.faiss_index.d)

    @property
    def nprobe(self) -> int | None:
        """How many inverted lists a search visits; None where there are no lists."""
        inner = inner_index(self.faiss_index)
        return int(inner.nprobe) if isinstance(inner, faiss.IndexIVF) else None

    def search(self, queries: AnyVectors, k: int, *, allowed: Ids | None = None) -> Nearest:
        """The k nearest stored vectors of each query (n, d), among the ids `allowed` if given.

        Returns similarity ("cosine") or distance ("l2", "hamming") as (n, k) float32 and ids as
        (n, k) int64, nearest first, ties by the smallest id; id -1, infinitely far, where nothing
        more was found. Ids in `allowed` that the index does not hold are passed over.
        """
        queries = self._checked(queries)
        if allowed is None:
            return self._search(queries, k, None)
        allowed = np.intersect1d(allowed, self.ids)
        if not self._visits_more_than(len(allowed)):
            return self._search(queries, k, faiss.IDSelectorBatch(allowed))
        vectors = self.vectors(allowed)
        if self.metric == "cosine":
            vectors = unit(vectors)  # compressed ones come back a little shorter
        scores, rows = exact.knn(queries, vectors, k, self.metric)
        return scores, np.where(rows < 0, -1, np.append(allowed, -1)[rows])

    def within(self, queries: AnyVectors, threshold: float) -> tuple[Rows, Ids, Scores]:
        """All stored vectors at the threshold or nearer: query rows, ids and scores, sorted."""
        queries = self._checked(queries)
        query_rows, ids = within(self.faiss_index, queries, threshold, self.metric)
        scores = self._rescore(queries, query_rows, ids)
        near = near_enough(self.metric, scores, threshold)
        query_rows, ids, scores = query_rows[near], ids[near], scores[near]
        order = np.lexsort((ids, query_rows))
        return query_rows[order], ids[order], scores[order]

    def vectors(self, ids: Ids) -> AnyVectors:
        """The stored vectors of `ids`, one a row; VectorError for an id that is not held."""
        rows = places_of(np.asarray(ids, np.int64), self.ids)
        inner = inner_index(self.faiss_index)
        if self.metric != "hamming":
            return inner.reconstruct_batch(rows)
        codes = faiss.rev_swig_ptr(inner.xb.data(), self.ntotal * inner.code_size)
        return codes.reshape(self.ntotal, inner.code_size)[rows]

    def _checked(self, queries: AnyVectors) -> AnyVectors:
        return checked(queries, self.metric, self.d)

    def _search(self, queries: AnyVectors, k: int, selector: Any) -> Nearest:
        parameters = self._parameters(selector)

        def search(some: AnyVectors, width: int) -> tuple[Any, Ids]:
            scores, ids = self.faiss_index.search(some, width, params=parameters)
            return scores, ids

        return top_k(queries, k, self.metric, search, self._rescore)

    def _parameters(self, selector: Any) -> Any:
        if selector is None:
            return None
        kinds: Any = faiss
        if self.nprobe is None:
            return kinds.SearchParameters(sel=selector)
        return kinds.SearchParametersIVF(sel=selector, nprobe=self.nprobe)

    def _visits_more_than(self, n: int) -> bool:
        """Whether a search through the lists would compare more than n vectors, and still miss."""
        if self.nprobe is None:
            return False
        nlist = inner_index(self.faiss_index).nlist
        return n * int(nlist) <= self.ntotal * self.nprobe

    def _rescore(self, queries: AnyVectors, query_rows: Rows, ids: Ids) -> Scores:
        distinct, rows = np.unique(ids, return_inverse=True)
        return score_rows(self.metric, queries, self.vectors(distinct), query_rows, rows)


def inner_index(faiss_index: Any) -> Any:
    """The Flat, IVF or BinaryFlat index inside an IDMap2; VectorError for any other kind."""
    inner: Any
    if isinstance(faiss_index, faiss.IndexBinaryIDMap2):
        inner = faiss.downcast_IndexBinary(faiss_index.index)
    elif isinstance(faiss_index, faiss.IndexIDMap2):
        inner = faiss.downcast_index(faiss_index.index)
    else:
        raise VectorError(f"{type(faiss_index).__name__} found, expected an IndexIDMap2")
    if not isinstance(inner, faiss.IndexFlat | faiss.IndexIVF | faiss.IndexBinaryFlat):
        raise VectorError(f"{type(inner).__name__} found, expected a Flat or IVF index")
    return inner
