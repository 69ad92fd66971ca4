"""Building an index: all compared below some two hundred thousand vectors, inverted lists above.

Near-duplicates are an easy case for inverted lists: both vectors of a pair mostly fall in the same
list or in neighbouring ones, so few need a visit. There are about 4 sqrt(n) lists, the rule of
thumb of the FAISS guidelines, and a search visits 20. What that misses depends on the descriptor
and on the threshold: measure it (indexes.measured_recall), and raise `nprobe` if it is too much.

The same vectors, ids and settings give the same index in any row order: rows are sorted by id, and
k-means runs with a fixed seed on one thread unless told otherwise. It trains on 64 vectors a list:
with the 256 that FAISS takes, training is most of the time of a build, and a search hardly finds
more. Under "cosine" it is the k-means in two levels of indexes.centroids, whose cost
grows with the lists to the power of 1.5 and not 2.

Beside the index, a build holds its training sample and one block of vectors: those of a large set
are given as a mapped file of halves, and are widened as they are added.
"""

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any

import faiss
import numpy as np

from indexes import binary
from indexes.centroids import TRAINED_ON, train_centroids
from indexes.checks import checked, checked_ids, unit
from indexes.errors import VectorError
from indexes.exact import FAISS_METRIC
from indexes.metrics import AnyVectors, Ids, Metric, Rows
from indexes.nearest import NearestIndex, inner_index
from indexes.threads import faiss_threads

FLAT_UP_TO = 200_000
"""Number of vectors up to which comparing with all of them is the default."""

DEFAULT_NPROBE = 20
_VECTORS_AT_ONCE = 1 << 15

VectorsOf = Callable[[Rows], AnyVectors]
"""float32 vectors of some rows."""


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
    normalise: bool = False,
) -> NearestIndex:
    """Build an index of `vectors` (n, d) under `ids` (n,).

    `vectors` are codes for "hamming", else float32 or float16, and may be mapped; under "cosine"
    they are of unit norm or, with `normalise`, scaled as they are added. `factory` is a FAISS
    string of the Flat or IVF family ("IVF4096,Flat"); by default it follows n. `threads` is part of
    what the result depends on, `fingerprint` names the encoder.
    """
    if metric == "hamming":
        return binary.build(vectors, ids, fingerprint=fingerprint)
    scaled = normalise and metric == "cosine"
    if not scaled and vectors.dtype != np.float16:
        vectors = checked(vectors, metric)
    vectors_of = partial(_widened, vectors, metric, scaled)
    ids = checked_ids(ids, len(vectors))
    order = np.argsort(ids)
    ids = ids[order]
    factory = factory or default_factory(len(vectors), metric)
    with faiss_threads(threads):
        index = _trained(vectors.shape[1], order, metric, factory, seed, vectors_of)
        for start in range(0, len(ids), _VECTORS_AT_ONCE):
            block = slice(start, start + _VECTORS_AT_ONCE)
            index.add_with_ids(vectors_of(order[block]), ids[block])
    inner = inner_index(index)
    if isinstance(inner, faiss.IndexIVF):
        inner.nprobe = min(nprobe, inner.nlist)
        inner.make_direct_map(True)
    return NearestIndex(index, ids, metric, factory, fingerprint)


def _trained(
    d: int, order: Rows, metric: Metric, factory: str, seed: int, vectors_of: VectorsOf
) -> Any:
    try:
        inner: Any = faiss.index_factory(d, factory, FAISS_METRIC[metric])
        index = faiss.IndexIDMap2(inner)
        lists = inner_index(index)
        if isinstance(lists, faiss.IndexIVF):
            size = min(TRAINED_ON * lists.nlist, len(order))
            chosen = np.sort(np.random.default_rng(seed).choice(len(order), size, replace=False))
            _train_lists(inner, lists, vectors_of(order[chosen]), metric, seed)
    except (RuntimeError, VectorError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise VectorError(f"factory {factory!r} with {len(order)} vectors: {reason}") from error
    return index


def _train_lists(inner: Any, lists: Any, sample: AnyVectors, metric: Metric, seed: int) -> None:
    """Centres of the lists, and what compresses a vector."""
    if metric == "cosine" and len(sample) >= lists.nlist:
        lists.quantizer.add(train_centroids(sample, lists.nlist, seed))  # FAISS trains no others
    inner.cp.seed = seed
    inner.train(sample)


def _widened(vectors: AnyVectors, metric: Metric, scaled: bool, rows: Rows) -> AnyVectors:
    some = vectors[rows]
    if scaled:
        return unit(some)
    return some if some.dtype == np.float32 else checked(some.astype(np.float32), metric)
