import math

import numpy as np
import pytest

from indexes.metrics import (
    cosine,
    cosine_error,
    euclidean,
    hamming,
    score_rows,
    squared_distance_error,
)


def test_scores_of_hand_computed_vectors():
    a = np.array([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0]])
    b = np.array([[4.0, 3.0], [0.0, 2.0], [-1.0, -1.0]])
    assert cosine(a, b).tolist() == [0.96, 0.0, -1.0]
    assert euclidean(a, b).tolist() == [1.414214, 2.236068, 2.828427]
    assert hamming(np.array([[0b1011, 0xFF]], np.uint8), np.array([[1, 0]], np.uint8)) == [10]


def test_a_vector_with_itself_scores_exactly_one_and_zero(clusters):
    vectors = clusters(500, 37)
    assert (cosine(vectors, vectors) == 1).all()
    assert (euclidean(vectors, vectors) == 0).all()


def test_scores_are_symmetric_to_the_last_bit(clusters):
    a, b = clusters(300, 65, seed=1), clusters(300, 65, seed=2)
    assert np.array_equal(cosine(a, b), cosine(b, a))
    assert np.array_equal(euclidean(a, b), euclidean(b, a))


def test_row_blocks_do_not_change_a_score(clusters, monkeypatch):
    vectors = clusters(200, 96)
    rows_a, rows_b = np.divmod(np.arange(900), 30)
    whole = score_rows("cosine", vectors, vectors, rows_a, rows_b)
    monkeypatch.setattr("indexes.metrics._PAIRS_AT_ONCE", 7)
    assert np.array_equal(whole, score_rows("cosine", vectors, vectors, rows_a, rows_b))
    by_hand = math.fsum(float(x) * float(y) for x, y in zip(vectors[3], vectors[9], strict=True))
    norms = math.dist(vectors[3], [0] * 96) * math.dist(vectors[9], [0] * 96)
    assert whole[3 * 30 + 9] == pytest.approx(by_hand / norms, abs=5.01e-7)


@pytest.mark.parametrize("d", [3, 64, 1024])
def test_float32_errs_less_than_the_bounds(d, clusters):
    a, b = clusters(400, d, seed=3), clusters(400, d, seed=3, noise=0.7)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    assert np.abs(a @ b.T - exact).max() < cosine_error(d)
    scale = np.float32(300)
    far_a, far_b = a * scale, b * scale
    squares = (far_a**2).sum(1)[:, None] + (far_b**2).sum(1) - 2 * far_a @ far_b.T
    wide_a, wide_b = far_a.astype(np.float64), far_b.astype(np.float64)
    gaps = ((wide_a[:, None, :8] - wide_b[None, :, :8]) ** 2).sum(2)
    for start in range(8, d, 8):
        part = slice(start, start + 8)
        gaps += ((wide_a[:, None, part] - wide_b[None, :, part]) ** 2).sum(2)
    assert np.abs(squares - gaps).max() < squared_distance_error(d, 600)
