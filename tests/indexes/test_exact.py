import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.errors import DimensionMismatch, NonFiniteVectors, VectorError
from indexes.exact import knn, range_pairs


def scores_by_numpy(a, b, metric):
    if metric == "hamming":
        return (np.unpackbits(a, axis=1)[:, None] != np.unpackbits(b, axis=1)).sum(2).astype(float)
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric == "l2":
        return np.round(np.sqrt(((a[:, None] - b[None]) ** 2).sum(2)), 6)
    norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return np.round(a @ b.T / norms, 6)


def knn_by_sorting(queries, vectors, k, metric):
    scores = scores_by_numpy(queries, vectors, metric)
    order = np.argsort(-scores if metric == "cosine" else scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


@pytest.fixture
def sets(clusters, codes):
    def make(metric, n, m):
        if metric == "hamming":
            both = codes(n + m, seed=5)
        else:
            both = clusters(n + m, 24, seed=5) * np.float32(1 if metric == "cosine" else 7)
        both[n : n + 9] = both[n]
        order = np.random.default_rng(0).permutation(n + m)
        return both[order[:n]], both[order[n:]]

    return make


METRICS = ["cosine", "l2", "hamming"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 5, 60, 400])
def test_knn_is_what_sorting_all_scores_gives(metric, k, sets):
    queries, vectors = sets(metric, 40, 300)
    scores, rows = knn(queries, vectors, k, metric)
    expected_scores, expected_rows = knn_by_sorting(queries, vectors, k, metric)
    found = min(k, 300)
    assert scores.dtype == np.float32
    assert np.array_equal(rows[:, :found], expected_rows)
    assert np.array_equal(scores[:, :found], expected_scores.astype(np.float32))
    assert (rows[:, found:] == -1).all()
    assert np.isinf(scores[:, found:]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_ties_beyond_k_go_to_the_smallest_row(metric, sets):
    queries, vectors = sets(metric, 4, 500)
    vectors[100:400] = queries[0]
    assert knn(queries[:1], vectors, 3, metric)[1].tolist() == [[100, 101, 102]]


def test_knn_does_not_depend_on_threads_or_batch(sets):
    queries, vectors = sets("cosine", 50, 400)
    scores, rows = knn(queries, vectors, 7, "cosine")
    threads = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)
        for row, query in enumerate(queries):
            alone = knn(query[None], vectors, 7, "cosine")
            assert np.array_equal(alone[0][0], scores[row])
            assert np.array_equal(alone[1][0], rows[row])
    finally:
        faiss.omp_set_num_threads(threads)


@pytest.mark.parametrize(
    ("metric", "threshold"), [("cosine", 0.55), ("l2", 5.5), ("hamming", 31), ("hamming", 0)]
)
@pytest.mark.parametrize("block", [1 << 15, 64])
def test_range_pairs_are_those_of_the_full_table(metric, threshold, block, sets, monkeypatch):
    monkeypatch.setattr("indexes.exact._VECTORS_AT_ONCE", block)
    monkeypatch.setattr("indexes.radius._QUERIES_AT_ONCE", 33)
    a, b = sets(metric, 150, 200)
    table = scores_by_numpy(a, b, metric)
    near = table >= threshold if metric == "cosine" else table <= threshold
    rows_a, rows_b, scores = range_pairs(a, b, threshold, metric)
    assert len(rows_a) > 0
    assert np.array_equal(np.stack([rows_a, rows_b]), np.stack(np.nonzero(near)))
    assert np.array_equal(scores, table[near])


@pytest.mark.parametrize("metric", METRICS)
def test_a_pair_exactly_at_the_threshold_counts(metric, sets):
    a, b = sets(metric, 60, 60)
    for threshold in np.unique(scores_by_numpy(a, b, metric))[[0, 5, 40, -1]]:
        found = range_pairs(a, b, threshold, metric)[2]
        assert (found == threshold).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e4), st.integers(1, 40))
def test_l2_misses_nothing_at_any_scale(seed, scale, d):
    """Far from the origin |x|^2 - 2xy + |y|^2 cancels: the widened radius must make up for it."""
    rng = np.random.default_rng(seed)
    points = (scale * (3 + rng.normal(size=(30, d)) * rng.uniform(1e-3, 1))).astype(np.float32)
    table = scores_by_numpy(points, points, "l2")
    threshold = float(np.quantile(table, 0.3, method="lower"))
    rows_a, rows_b, _ = range_pairs(points, points, threshold, "l2")
    assert np.array_equal(np.stack([rows_a, rows_b]), np.stack(np.nonzero(table <= threshold)))


def test_empty_sets_give_empty_answers(clusters):
    some, none = clusters(5, 8), np.zeros((0, 8), np.float32)
    for a, b in ((some, none), (none, some), (none, none)):
        assert [len(column) for column in range_pairs(a, b, 0.5, "cosine")] == [0, 0, 0]
    assert knn(none, some, 3, "cosine")[1].shape == (0, 3)
    assert (knn(some, none, 3, "cosine")[1] == -1).all()


def test_bad_input_is_refused(clusters):
    good = clusters(5, 8)
    bad = good.copy()
    bad[2, 2] = np.nan
    for arguments in ((good, bad), (bad, good)):
        with pytest.raises(NonFiniteVectors):
            knn(*arguments, 1, "cosine")
        with pytest.raises(NonFiniteVectors):
            range_pairs(*arguments, 0.5, "cosine")
    with pytest.raises(DimensionMismatch):
        knn(clusters(5, 9), good, 1, "cosine")
    with pytest.raises(VectorError, match="k is 0"):
        knn(good, good, 0, "cosine")
