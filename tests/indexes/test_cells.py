"""The join in cells, against all pairs in float64."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import indexes
from indexes import Cells, Pairs, build_cells, cell_join, cells
from indexes.errors import NonFiniteVectors, VectorError


def clustered(n: int, d: int = 16, seed: int = 0, spread: float = 0.15) -> np.ndarray:
    """Unit vectors around n / 5 directions, so that some are near each other."""
    rng = np.random.default_rng(seed)
    around = rng.standard_normal((max(1, n // 5), d))[rng.integers(0, max(1, n // 5), n)]
    return indexes.unit(around + spread * rng.standard_normal((n, d)))


def all_pairs(vectors: np.ndarray, ids: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    scores = np.round(wide @ wide.T, 6)
    rows_a, rows_b = np.nonzero(np.triu(scores >= threshold, 1))
    return {(min(ids[a], ids[b]), max(ids[a], ids[b])) for a, b in zip(rows_a, rows_b, strict=True)}


def found(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.id_a.tolist(), pairs.id_b.tolist(), strict=True))


def test_visiting_every_cell_is_the_exact_join():
    vectors, ids = clustered(300), np.random.default_rng(1).permutation(300) * 7
    cells = build_cells(vectors, ids, cells=9, probes=9)
    pairs = cell_join(vectors, ids, cells, 0.8)
    assert found(pairs) == sorted(all_pairs(vectors, ids, 0.8))
    exact = indexes.self_join(vectors, ids, 0.8)
    np.testing.assert_allclose(pairs.similarity, exact.similarity, atol=2e-6)


def test_a_pair_is_found_iff_one_visits_the_cell_of_the_other():
    vectors, ids = clustered(400), np.arange(400)
    cells = build_cells(vectors, ids, cells=60, probes=1)
    home = cells.probes[:, 0]
    expected = [
        (a, b)
        for a, b in sorted(all_pairs(vectors, ids, 0.4))
        if home[b] in cells.probes[a] or home[a] in cells.probes[b]
    ]
    assert found(cell_join(vectors, ids, cells, 0.4)) == expected
    assert 0 < len(expected) < len(all_pairs(vectors, ids, 0.4))  # it can miss some, and does


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 4), st.integers(1, 12), st.integers(1, 5))
def test_any_division_of_the_cells_gives_each_pair_once(seed, probes, count, parts):
    vectors, ids = clustered(80, seed=seed), np.arange(80)
    cells = build_cells(vectors, ids, cells=count, probes=probes, seed=seed)
    whole = found(cell_join(vectors, ids, cells, 0.7))
    edges = np.linspace(0, len(cells), parts + 1).astype(int)
    pieces = [
        pair
        for a, b in pairwise(edges)
        for pair in found(cell_join(vectors, ids, cells, 0.7, owned=range(a, b)))
    ]
    assert sorted(pieces) == whole
    assert len(set(whole)) == len(whole)


def test_the_order_of_rows_does_not_matter():
    vectors, ids = clustered(500), np.arange(500) * 3
    shuffled = np.random.default_rng(5).permutation(500)
    first = cell_join(vectors, ids, build_cells(vectors, ids, cells=16), 0.8)
    other = (vectors[shuffled], ids[shuffled])
    second = cell_join(*other, build_cells(*other, cells=16), 0.8)
    assert found(first) == found(second)
    np.testing.assert_array_equal(first.similarity, second.similarity)


def test_half_precision_on_disk_gives_the_same_pairs(tmp_path):
    stored = clustered(300).astype(np.float16)
    np.save(tmp_path / "v.npy", stored)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    ids = np.arange(300)
    cells = build_cells(mapped, ids, cells=4, probes=4)
    pairs = cell_join(mapped, ids, cells, 0.8)
    assert set(found(pairs)) == all_pairs(stored, ids, 0.8)


def test_more_probes_find_more():
    vectors, ids = clustered(3000, d=24, spread=0.3), np.arange(3000)
    true = len(all_pairs(vectors, ids, 0.8))
    recalls = [
        len(cell_join(vectors, ids, build_cells(vectors, ids, probes=m), 0.8)) / true
        for m in (1, 2, 4)
    ]
    assert recalls == sorted(recalls)
    assert recalls[2] > 0.99


def test_a_vector_visits_its_nearest_centroids():
    vectors, ids = clustered(200), np.arange(200)
    cells = build_cells(vectors, ids, cells=10, probes=3)
    nearest = np.argsort(-(cells.sketches.astype(np.float64) @ cells.centroids.T), axis=1)[:, :3]
    np.testing.assert_array_equal(cells.probes, nearest)
    np.testing.assert_allclose(np.linalg.norm(cells.centroids, axis=1), 1, atol=1e-6)
    stored, visitors = cells.stored(range(10)), cells.visitors(range(10))
    assert sorted(r for c in range(10) for r in stored.of(c)) == list(range(200))
    for cell in range(10):
        expected = np.flatnonzero((nearest == cell).any(axis=1))
        np.testing.assert_array_equal(visitors.of(cell), expected)


def test_empty_cells_are_no_trouble():
    vectors, ids = clustered(6), np.arange(6)
    probes = np.zeros((6, 1), np.int32)
    cells = Cells(build_cells(vectors, ids).sketches, vectors[:3], probes)
    assert found(cell_join(vectors, ids, cells, -1.0)) == [
        (a, b) for a in range(6) for b in range(a + 1, 6)
    ]


def test_one_vector_has_no_pair():
    one = clustered(1)
    assert len(cell_join(one, np.array([5]), build_cells(one, np.array([5])), 0.5)) == 0


def test_what_cannot_be_joined_is_refused():
    vectors, ids = clustered(10), np.arange(10)
    with pytest.raises(VectorError, match="at least 1"):
        build_cells(vectors[:0], ids[:0])
    with pytest.raises(VectorError, match="at least 1"):
        build_cells(vectors, ids, probes=0)
    broken = vectors.copy()
    broken[3, 2] = np.nan
    with pytest.raises(NonFiniteVectors, match="row 3"):
        build_cells(broken, ids, cells=2)
    broken[3] = 0
    with pytest.raises(VectorError, match="row 3 is zero"):
        build_cells(broken, ids, cells=2)


def test_members_do_not_depend_on_the_block_of_probes(monkeypatch):
    rng = np.random.default_rng(0)
    probes = rng.integers(0, 12, (500, 3)).astype(np.int32)
    for block in (1 << 18, 7):
        monkeypatch.setattr(cells, "_PROBES_AT_ONCE", block)
        for some in (range(12), range(3, 9), range(5, 5)):
            members = cells._members(probes, some)
            for cell in some:
                expected = np.flatnonzero((probes == cell).sum(axis=1))
                assert np.unique(members.of(cell)).tolist() == expected.tolist()
                assert len(members.of(cell)) == (probes == cell).sum()
                assert (np.diff(members.of(cell)) >= 0).all()
