"""The k nearest below a threshold, against a float64 brute force."""

import numpy as np
import pytest

import indexes


def clustered(n, d=32, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(2, n // 8), d))
    points = centres[rng.integers(0, len(centres), n)] + 0.6 * rng.standard_normal((n, d))
    return indexes.unit(points.astype(np.float32)), rng.permutation(10 * n)[:n].astype(np.int64)


def brute_force(vectors, ids, k, low, high, rows=None):
    exact = np.round(vectors.astype(np.float64) @ vectors.astype(np.float64).T, 6)
    expected = {}
    for a in range(len(ids)) if rows is None else rows:
        inside = [b for b in range(len(ids)) if b != a and low <= exact[a, b] < high]
        for b in sorted(inside, key=lambda b: (-exact[a, b], ids[b]))[:k]:
            pair = (min(ids[a], ids[b]), max(ids[a], ids[b]))
            expected[tuple(map(int, pair))] = exact[a, b]
    return expected


def as_dict(pairs):
    keys = zip(pairs.id_a.tolist(), pairs.id_b.tolist(), strict=True)
    return dict(zip(keys, pairs.similarity.tolist(), strict=True))


@pytest.mark.parametrize("k", [1, 3, 10, 500])
def test_they_are_those_of_a_brute_force(k):
    vectors, ids = clustered(200)
    found = as_dict(indexes.nearest_below(vectors, ids, k, low=0.3, high=0.8))
    expected = brute_force(vectors, ids, k, 0.3, 0.8)
    assert found.keys() == expected.keys()
    assert all(abs(found[pair] - expected[pair]) <= 2e-6 for pair in found)
    assert len(found) > 50


def test_rows_can_be_shared_out_and_their_order_is_nothing():
    vectors, ids = clustered(150, seed=1)
    whole = as_dict(indexes.nearest_below(vectors, ids, 4, low=0.2, high=0.7))
    parts = [
        as_dict(indexes.nearest_below(vectors, ids, 4, low=0.2, high=0.7, rows=rows))
        for rows in (slice(0, 40), slice(40, 150))
    ]
    order = np.random.default_rng(2).permutation(150)
    turned = as_dict(indexes.nearest_below(vectors[order], ids[order], 4, low=0.2, high=0.7))
    assert whole == turned == parts[0] | parts[1]


def test_small_blocks_find_the_same(monkeypatch):
    vectors, ids = clustered(150, seed=3)
    whole = as_dict(indexes.nearest_below(vectors, ids, 5, low=0.2, high=0.75))
    monkeypatch.setattr("indexes.borderline._VECTORS_AT_ONCE", 7)
    monkeypatch.setattr("indexes.borderline._QUERIES_AT_ONCE", 11)
    assert as_dict(indexes.nearest_below(vectors, ids, 5, low=0.2, high=0.75)) == whole


def test_equal_scores_go_to_the_smallest_id():
    vectors = indexes.unit(np.array([[1, 0], [1, 1], [1, -1], [-1, 0]], np.float32))
    found = indexes.nearest_below(vectors, np.array([9, 5, 3, 7]), 1, low=0.5, high=0.9)
    assert set(as_dict(found)) == {(3, 9), (5, 9)}  # 9 takes 3 of the two; each of them takes 9
    only = indexes.nearest_below(
        vectors, np.array([9, 5, 3, 7]), 1, low=0.5, high=0.9, rows=slice(0, 1)
    )
    assert set(as_dict(only)) == {(3, 9)}


def test_cells_that_are_all_visited_miss_nothing():
    vectors, ids = clustered(300, seed=4)
    cells = indexes.build_cells(vectors, ids, cells=6, probes=6)
    found = indexes.cell_nearest_below(vectors, ids, cells, 5, low=0.3, high=0.8)
    expected = brute_force(vectors, ids, 5, 0.3, 0.8)
    assert as_dict(found).keys() == expected.keys()


def test_owned_cells_make_up_the_whole(monkeypatch):
    vectors, ids = clustered(300, seed=5)
    cells = indexes.build_cells(vectors, ids, cells=9, probes=3)
    limits = {"low": 0.3, "high": 0.8}
    whole = as_dict(indexes.cell_nearest_below(vectors, ids, cells, 5, **limits))
    parts = [
        as_dict(indexes.cell_nearest_below(vectors, ids, cells, 5, **limits, owned=owned))
        for owned in (range(0, 4), range(4, 9))
    ]
    assert parts[0] | parts[1] == whole
    monkeypatch.setattr("indexes.borderline._ASKING_AT_ONCE", 11)
    assert as_dict(indexes.cell_nearest_below(vectors, ids, cells, 5, **limits)) == whole
    fresh = np.arange(300) % 3 == 0
    new = as_dict(indexes.cell_nearest_below(vectors, ids, cells, 5, **limits, fresh=fresh))
    assert 0 < len(new) < len(whole) and new.items() <= whole.items()
    assert all({a, b} & set(ids[fresh].tolist()) for a, b in new)
    exact = brute_force(vectors, ids, 5, 0.3, 0.8)
    assert len(set(whole) & set(exact)) > 0.9 * len(exact)


@pytest.mark.parametrize("k, low, high", [(0, 0.1, 0.5), (3, 0.5, 0.5), (3, -2, 0.5)])
def test_a_band_that_is_none_is_refused(k, low, high):
    vectors, ids = clustered(10)
    with pytest.raises(indexes.VectorError, match="band"):
        indexes.nearest_below(vectors, ids, k, low=low, high=high)


def test_nothing_and_one_have_no_neighbours():
    for n in (0, 1):
        vectors = np.ones((n, 1), np.float32)
        assert len(indexes.nearest_below(vectors, np.arange(n), 3, low=0, high=0.5)) == 0
