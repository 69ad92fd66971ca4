import numpy as np

from indexes.metrics import cosine, score_rows
from indexes.ranking import top_k


def test_order_is_that_of_the_exact_scores_whatever_the_search_says(clusters):
    """A search whose scores err within the float32 bounds and whose ties come in any order."""
    vectors = clusters(300, 16)
    vectors[50:150] = vectors[50]
    queries = clusters(6, 16, seed=9)
    queries[0] = vectors[50]
    rng = np.random.default_rng(0)

    def shaken(some, width):
        scores = some @ vectors.T + rng.uniform(-5e-6, 5e-6, (len(some), 300)).astype(np.float32)
        order = np.argsort(-scores, axis=1)[:, :width]
        return np.take_along_axis(scores, order, 1), order

    def rescore(some, query_rows, rows):
        return score_rows("cosine", some, vectors, query_rows, rows)

    for _ in range(5):
        scores, rows = top_k(queries, 12, "cosine", shaken, rescore)
        for query, found, score in zip(queries, rows, scores, strict=True):
            exact = cosine(np.broadcast_to(query, vectors.shape), vectors)
            expected = sorted(range(300), key=lambda row: (-exact[row], row))[:12]
            assert found.tolist() == expected
            assert np.array_equal(score, exact[expected].astype(np.float32))


def test_l2_order_where_squared_norms_cancel():
    rng = np.random.default_rng(1)
    points = (rng.normal(size=20) * 100 + rng.normal(size=(400, 20)) * 0.01).astype(np.float32)

    def cancelling(some, width):
        squares = (some**2).sum(1)[:, None] + (points**2).sum(1) - 2 * some @ points.T
        order = np.argsort(squares, axis=1)[:, :width]
        missing = np.full((len(some), max(0, width - 400)), -1)
        scores = np.take_along_axis(squares, order, 1)
        return np.hstack([scores, missing + np.inf]), np.hstack([order, missing])

    def rescore(some, query_rows, rows):
        return score_rows("l2", some, points, query_rows, rows)

    scores, rows = top_k(points[:20], 3, "l2", cancelling, rescore)
    gaps = points[:20, None].astype(np.float64) - points[None].astype(np.float64)
    true = np.round(np.sqrt((gaps**2).sum(2)), 6)
    assert np.array_equal(rows, np.argsort(true, axis=1, kind="stable")[:, :3])
    assert np.array_equal(scores, np.sort(true, axis=1)[:, :3].astype(np.float32))


def test_an_endless_tie_is_cut():
    asked = []

    def all_equal(some, width):
        asked.append(width)
        rows = np.broadcast_to(np.arange(width), (len(some), width))
        return np.ones((len(some), width), np.float32), rows

    query = np.array([[1, 0]], np.float32)
    _, rows = top_k(query, 2, "cosine", all_equal, lambda q, i, rows: np.ones(len(rows)))
    assert rows.tolist() == [[0, 1]]
    assert max(asked) < 5000


def test_equal_hamming_distances_go_to_the_smallest_label():
    def backwards(some, width):
        labels = np.full(width, -1)
        labels[:100] = np.arange(100)[::-1][:width]
        return np.full((len(some), width), 7), np.broadcast_to(labels, (len(some), width))

    codes = np.zeros((2, 32), np.uint8)
    _, labels = top_k(codes, 3, "hamming", backwards, lambda q, i, rows: np.full(len(rows), 7.0))
    assert labels.tolist() == [[0, 1, 2]] * 2
