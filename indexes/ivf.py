"""Building an index: all compared below some two hundred thousand vectors, inverted lists above.

Near-duplicates are an easy case for inverted lists: both vectors of a pair mostly fall in the same
list or in neighbouring ones, so few need a visit. There are about 4 sqrt(n) lists, the rule of
thumb of the FAISS guidelines, and a search visits 16. What that misses depends on the descriptor
and on the threshold: measure it (indexes.measured_recall), and raise `nprobe` if it is too much.

The same vectors, ids and settings give the same index in any row order: rows are sorted by id, and
k-means runs with a fixed seed on one thread unless told otherwise. It trains on 64 vectors a list:
with the 256 that FAISS takes, training is most of the time of a build, and a search that visits 16
lists finds no more.
"""

from math import sqrt
from typing import Any

import faiss
import numpy as np

from indexes import binary
from indexes.checks import checked, checked_ids
from indexes.errors import VectorError
from indexes.exact import FAISS_METRIC
from indexes.metrics import AnyVectors, Ids, Metric
from indexes.nearest import NearestIndex, inner_index
from indexes.threads import faiss_threads

FLAT_UP_TO = 200_000
"""Number of vectors up to which comparing with all of them is the default."""

DEFAULT_NPROBE = 16
_TRAINED_ON = 64  # vectors a list, at most


def default_factory(n: int, metric: Metric) -> str:
    """The FAISS factory string for n vectors."""
    if metric == "hamming":
        return binary.FACTORY
    return "Flat" if n <= FLAT_UP_TO else f"IVF{round(4 * sqrt(n))},Flat"


def build(
    vectors: AnyVectors,
    ids: Ids,
    *,
    metric: Metric,
    factory: str | None = None,
    nprobe: int = DEFAULT_NPROBE,
    seed: int = 0,
    threads: int = 1,
    fingerprint: str = "",
) -> NearestIndex:
    """Build an index of `vectors` (n, d) under `ids` (n,).

    `factory` is a FAISS string of the Flat or IVF family ("IVF4096,Flat"); by default it follows n.
    `threads` is part of what the result depends on, `fingerprint` names the encoder.
    """
    if metric == "hamming":
        return binary.build(vectors, ids, fingerprint=fingerprint)
    vectors = checked(vectors, metric)
    ids = checked_ids(ids, len(vectors))
    order = np.argsort(ids)
    if not np.array_equal(order, np.arange(len(ids))):
        vectors, ids = vectors[order], ids[order]
    factory = factory or default_factory(len(vectors), metric)
    with faiss_threads(threads):
        index = _trained(vectors, metric, factory, seed)
        index.add_with_ids(vectors, ids)
    inner = inner_index(index)
    if isinstance(inner, faiss.IndexIVF):
        inner.nprobe = min(nprobe, inner.nlist)
        inner.make_direct_map(True)
    return NearestIndex(index, ids, metric, factory, fingerprint)


def _trained(vectors: AnyVectors, metric: Metric, factory: str, seed: int) -> Any:
    try:
        inner: Any = faiss.index_factory(vectors.shape[1], factory, FAISS_METRIC[metric])
        index = faiss.IndexIDMap2(inner)
        if isinstance(inner_index(index), faiss.IndexIVF):
            inner.cp.seed = seed
            inner.cp.max_points_per_centroid = _TRAINED_ON
        inner.train(vectors)
    except (RuntimeError, VectorError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise VectorError(f"factory {factory!r} with {len(vectors)} vectors: {reason}") from error
    return index
