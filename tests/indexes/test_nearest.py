import faiss
import numpy as np
import pytest

import indexes
from indexes.errors import DimensionMismatch, NonFiniteVectors, VectorError

KINDS = [("cosine", "Flat"), ("l2", "Flat"), ("cosine", "IVF20,Flat"), ("l2", "IVF20,Flat")]
KINDS += [("hamming", None)]


@pytest.fixture
def data(clusters, codes, some_ids):
    def make(metric, n=900):
        vectors = codes(n) if metric == "hamming" else clusters(n, 24)
        return vectors, some_ids(n)

    return make


def scores_one_by_one(queries, vectors, metric):
    measure = {"cosine": indexes.cosine, "l2": indexes.euclidean, "hamming": indexes.hamming}
    return np.stack(
        [measure[metric](np.repeat(q[None], len(vectors), 0), vectors) for q in queries]
    )


def by_sorting(queries, vectors, ids, k, metric):
    scores = scores_one_by_one(queries, vectors, metric)
    signed = -scores if metric == "cosine" else scores
    order = np.lexsort((np.broadcast_to(ids, scores.shape), signed), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, 1).astype(np.float32), ids[order]


@pytest.mark.parametrize(("metric", "factory"), KINDS)
def test_search_is_what_sorting_gives(metric, factory, data):
    vectors, ids = data(metric)
    vectors[100:150] = vectors[100]
    index = indexes.build(vectors, ids, metric=metric, factory=factory, nprobe=20)
    expected = by_sorting(vectors[80:120], vectors, ids, 10, metric)
    found = index.search(vectors[80:120], 10)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


@pytest.mark.parametrize(("metric", "factory"), KINDS)
@pytest.mark.parametrize("share", [1, 12, 300, 850])
def test_only_allowed_ids_come_back(metric, factory, share, data):
    vectors, ids = data(metric)
    index = indexes.build(vectors, ids, metric=metric, factory=factory, nprobe=20)
    chosen = np.random.default_rng(1).choice(900, share, replace=False)
    strangers = np.array([5, 6, 2**62 + 1])
    allowed = np.concatenate([ids[chosen], strangers, ids[chosen[:1]]])
    scores, found = index.search(vectors[:30], 20, allowed=allowed)
    expected = by_sorting(vectors[:30], vectors[chosen], ids[chosen], 20, metric)
    width = min(20, share)
    assert np.array_equal(found[:, :width], expected[1])
    assert np.array_equal(scores[:, :width], expected[0])
    assert (found[:, width:] == -1).all()


def test_few_allowed_ids_are_found_although_their_lists_are_not_visited(data):
    vectors, ids = data("cosine")
    index = indexes.build(vectors, ids, metric="cosine", factory="IVF30,Flat", nprobe=1)
    _, found = index.search(vectors[:50], 5, allowed=ids[500:505])
    assert (np.sort(found, axis=1) == np.sort(ids[500:505])).all()


@pytest.mark.parametrize(("metric", "factory"), KINDS)
def test_nothing_allowed_or_too_few_give_minus_one_infinitely_far(metric, factory, data):
    vectors, ids = data(metric, 300)
    index = indexes.build(vectors, ids, metric=metric, factory=factory, nprobe=20)
    farthest = -np.inf if metric == "cosine" else np.inf
    scores, found = index.search(vectors[:3], 4, allowed=np.zeros(0, np.int64))
    assert (found == -1).all()
    assert (scores == farthest).all()
    scores, found = index.search(vectors[:3], 310)
    assert (found[:, 300:] == -1).all()
    assert (scores[:, 300:] == farthest).all()
    assert (np.sort(found[:, :300]) == np.sort(ids)).all()


def test_lists_that_run_dry_give_minus_one_not_a_wrong_id(data):
    vectors, ids = data("cosine")
    index = indexes.build(vectors, ids, metric="cosine", factory="IVF30,Flat", nprobe=1)
    scores, found = index.search(vectors[:40], 600)
    assert (found == -1).any()
    assert np.isneginf(scores[found == -1]).all()
    assert np.isin(found[found >= 0], ids).all()
    assert (found[:, 0] == ids[:40]).all()


@pytest.mark.parametrize(("metric", "factory"), KINDS)
def test_within_finds_all_at_the_threshold_or_nearer(metric, factory, data):
    vectors, ids = data(metric)
    vectors[100:150] = vectors[100]
    threshold = {"cosine": 0.6, "l2": 0.9, "hamming": 31}[metric]
    index = indexes.build(vectors, ids, metric=metric, factory=factory, nprobe=20)
    table = scores_one_by_one(vectors[80:120], vectors, metric)
    near = table >= threshold if metric == "cosine" else table <= threshold
    expected = sorted((row, ids[col], table[row, col]) for row, col in np.argwhere(near))
    rows, found, scores = index.within(vectors[80:120], threshold)
    assert list(zip(rows, found, scores, strict=True)) == expected
    assert len(expected) > 50 * 20


@pytest.mark.parametrize(("metric", "factory"), KINDS)
def test_vectors_come_back_by_id(metric, factory, data):
    vectors, ids = data(metric)
    index = indexes.build(vectors, ids, metric=metric, factory=factory)
    rows = np.array([5, 700, 5, 0])
    assert np.array_equal(index.vectors(ids[rows]), vectors[rows])
    with pytest.raises(VectorError, match="id 3 "):
        index.vectors(np.array([3]))


def test_bad_queries_are_refused(data):
    vectors, ids = data("cosine", 50)
    index = indexes.build(vectors, ids, metric="cosine")
    nan = vectors[:2].copy()
    nan[1, 0] = np.nan
    for query, error in (
        (nan, NonFiniteVectors),
        (np.zeros((1, 24), np.float32), VectorError),
        (vectors[:, :20], DimensionMismatch),
        (vectors[0], DimensionMismatch),
    ):
        with pytest.raises(error):
            index.search(query, 3)
        with pytest.raises(error):
            index.within(query, 0.5)


def test_a_batch_of_one_gives_the_same_row(data):
    vectors, ids = data("cosine")
    index = indexes.build(vectors, ids, metric="cosine", factory="IVF20,Flat", nprobe=3)
    scores, found = index.search(vectors[:60], 9)
    for row in range(60):
        alone = index.search(vectors[row : row + 1], 9)
        assert np.array_equal(alone[0][0], scores[row])
        assert np.array_equal(alone[1][0], found[row])


def test_only_flat_and_ivf_are_taken(data):
    vectors, ids = data("cosine", 50)
    with pytest.raises(VectorError, match="HNSW"):
        indexes.build(vectors, ids, metric="cosine", factory="HNSW16")
    with pytest.raises(VectorError, match="IDMap2"):
        indexes.nearest.inner_index(faiss.IndexFlatIP(4))
