import faiss
import numpy as np
import pytest

import indexes
from indexes.errors import DimensionMismatch, NonFiniteVectors, VectorError
from indexes.ivf import build, default_factory


@pytest.mark.parametrize(
    ("n", "metric", "factory"),
    [
        (10, "cosine", "Flat"),
        (200_000, "l2", "Flat"),
        (250_000, "l2", "IVF2000,Flat"),
        (1_000_000, "cosine", "IVF4000,Flat"),
        (1_000_000, "hamming", "BFlat"),
    ],
)
def test_default_factory(n, metric, factory):
    assert default_factory(n, metric) == factory


def as_bytes(index):
    return faiss.serialize_index(index.faiss_index).tobytes()


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "IVF16,SQ8"])
def test_row_order_does_not_change_a_byte(factory, clusters, some_ids):
    vectors, ids = clusters(2000, 12), some_ids(2000)
    order = np.random.default_rng(3).permutation(2000)
    one = build(vectors, ids, metric="cosine", factory=factory)
    two = build(vectors[order], ids[order], metric="cosine", factory=factory)
    assert as_bytes(one) == as_bytes(two)
    assert np.array_equal(one.ids, np.sort(ids))


def test_seed_changes_the_lists_and_nothing_else(clusters, some_ids):
    vectors, ids = clusters(2000, 12), some_ids(2000)
    one, two = (
        build(vectors, ids, metric="cosine", factory="IVF16,Flat", seed=seed, nprobe=16)
        for seed in (0, 1)
    )
    assert as_bytes(one) != as_bytes(two)
    for a, b in zip(one.search(vectors[:50], 5), two.search(vectors[:50], 5), strict=True):
        assert np.array_equal(a, b)


def test_a_build_leaves_the_thread_count_and_its_input_alone(clusters, some_ids):
    vectors, ids = clusters(500, 12), some_ids(500)
    before, kept = faiss.omp_get_max_threads(), vectors.copy()
    build(vectors, ids, metric="cosine", factory="IVF4,Flat", threads=before + 1)
    assert faiss.omp_get_max_threads() == before
    assert np.array_equal(vectors, kept)


def test_it_says_what_it_is(clusters, some_ids):
    index = build(clusters(500, 12), some_ids(500), metric="l2", factory="IVF4,Flat")
    assert (index.d, index.ntotal, index.nprobe, index.metric) == (12, 500, 4, "l2")
    assert build(clusters(5, 12), some_ids(5), metric="l2").nprobe is None


@pytest.mark.parametrize("factory", ["nonsense", "IVF0x,Flat", "PCA4,Flat", "LSH", "IVF64,Flat"])
def test_a_factory_that_cannot_be_built_is_named(factory, clusters, some_ids):
    with pytest.raises(VectorError, match=factory):
        build(clusters(20, 12), some_ids(20), metric="cosine", factory=factory)


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "IVF4,SQ8"])
def test_bad_vectors_and_ids_are_refused(factory, clusters, some_ids):
    vectors, ids = clusters(300, 12), some_ids(300)
    bad = vectors.copy()
    bad[7, 7] = np.inf
    zero = vectors.copy()
    zero[7] = 0
    with pytest.raises(NonFiniteVectors, match="row 7 "):
        build(bad, ids, metric="l2", factory=factory)
    with pytest.raises(VectorError, match="row 7 has norm 0"):
        build(zero, ids, metric="cosine", factory=factory)
    with pytest.raises(VectorError, match="given twice"):
        build(vectors, np.append(ids[:-1], ids[0]), metric="cosine", factory=factory)
    with pytest.raises(DimensionMismatch):
        build(vectors, ids[:-1], metric="cosine", factory=factory)


def test_a_few_lists_find_the_near_duplicates(clusters, some_ids):
    """The claim of the module: recall close to one at a small share of the lists."""
    vectors, ids = clusters(20_000, 48, noise=0.35), some_ids(20_000)
    index = build(vectors, ids, metric="cosine", factory="IVF200,Flat", nprobe=8)
    pairs = indexes.self_join(vectors, ids, 0.75, index=index)
    recall = indexes.measured_recall(vectors, ids, pairs, 0.75, sample=400)
    assert recall.n > 300
    assert recall.recall > 0.97


def test_an_empty_flat_index_answers_nothing():
    empty = build(np.zeros((0, 8), np.float32), np.zeros(0, np.int64), metric="cosine")
    scores, ids = empty.search(np.eye(8, dtype=np.float32)[:2], 3)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()


def test_cosine_lists_have_centres_of_norm_one(clusters, some_ids):
    """Shorter centres, of scattered lists, would be passed over by an inner product."""
    index = build(clusters(800, 12), some_ids(800), metric="cosine", factory="IVF8,Flat")
    quantizer = faiss.downcast_index(indexes.nearest.inner_index(index.faiss_index).quantizer)
    norms = np.linalg.norm(quantizer.reconstruct_n(0, 8), axis=1)
    assert norms == pytest.approx(np.ones(8), abs=1e-5)


@pytest.mark.parametrize("kind", ["f2", "f4"])
@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_mapped_vectors_are_scaled_and_found_like_vectors_in_memory(
    factory, kind, clusters, some_ids, tmp_path
):
    vectors, ids = 3 * clusters(2000, 24), some_ids(2000)
    np.save(tmp_path / "vectors.npy", vectors.astype(kind))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    built = build(mapped, ids, metric="cosine", factory=factory, nprobe=16, normalise=True)
    wide = vectors.astype(kind).astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    scores, found = built.search(wide[:40].astype(np.float32), 5)
    products = wide[:40] @ wide.T
    best = np.argsort(-products, axis=1)[:, :5]
    assert np.allclose(scores, np.take_along_axis(products, best, 1), atol=2e-6)
    assert np.array_equal(found[:, 0], ids[best[:, 0]])


def test_mapped_halves_that_are_not_finite_are_refused(clusters, some_ids):
    halves = clusters(300, 12).astype(np.float16)
    halves[7, 7] = np.inf
    for metric in ("l2", "cosine"):
        with pytest.raises(NonFiniteVectors):
            build(halves, some_ids(300), metric=metric, factory="Flat", normalise=True)
