"""The join in cells, against all pairs in float64."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import indexes
from indexes import Cells, Pairs, build_cells, cell_join, cells
from indexes.cells import REACH, border_distance
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


def visited(cells: Cells, threshold: float, d: int, reach: float = REACH) -> np.ndarray:
    """Which vectors visit which cells, (n, c)."""
    within = border_distance(threshold, d, reach)
    near = np.zeros((len(cells.probes), len(cells)), bool)
    rows, columns = np.nonzero(cells.margins <= within)
    near[rows, cells.probes[rows, columns]] = True
    return near


@pytest.mark.parametrize("reach", [0.5, 2.0])
def test_visiting_every_near_cell_is_the_exact_join(reach):
    """At half the distance of a pair no border hides one; twice the distance is everywhere."""
    vectors, ids = clustered(300), np.random.default_rng(1).permutation(300) * 7
    cells = build_cells(vectors, ids, cells=9, probes=9)
    pairs = cell_join(vectors, ids, cells, 0.8, reach=reach)
    assert found(pairs) == sorted(all_pairs(vectors, ids, 0.8))
    exact = indexes.self_join(vectors, ids, 0.8)
    np.testing.assert_allclose(pairs.similarity, exact.similarity, atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.3, 0.99), st.integers(2, 40))
def test_one_of_a_pair_is_within_half_its_distance_of_any_border(seed, threshold, count):
    """What makes a reach of 0.5 lossless, for pairs on either side of every border."""
    vectors, ids = clustered(120, seed=seed), np.arange(120)
    cells = build_cells(vectors, ids, cells=count, probes=count)
    exact = all_pairs(vectors, ids, threshold)
    assert set(found(cell_join(vectors, ids, cells, threshold, reach=0.5))) == exact


def test_margins_are_distances_from_the_planes_between_cells():
    vectors, ids = clustered(200), np.arange(200)
    cells = build_cells(vectors, ids, cells=30, probes=7)
    sketches, centres = cells.sketches.astype(np.float64), cells.centroids.astype(np.float64)
    for row in range(0, 200, 13):
        own, *others = centres[cells.probes[row]]
        assert cells.margins[row, 0] == 0
        for other, margin in zip(others, cells.margins[row, 1:], strict=True):
            normal = (own - other) / np.linalg.norm(own - other)
            assert margin == pytest.approx(sketches[row] @ normal, abs=1e-3)


def test_equal_centroids_have_no_border_between_them():
    vectors = np.repeat(clustered(5), 20, axis=0)
    cells = build_cells(vectors, np.arange(100), cells=40, probes=40)
    assert np.isfinite(cells.margins).all()
    exact = all_pairs(vectors, np.arange(100), 0.99)
    assert set(found(cell_join(vectors, np.arange(100), cells, 0.99, reach=0.5))) == exact


def test_a_pair_is_found_iff_one_visits_the_cell_of_the_other():
    vectors, ids = clustered(400), np.arange(400)
    cells = build_cells(vectors, ids, cells=60, probes=3)
    home, visits = cells.probes[:, 0], visited(cells, 0.4, 16)
    expected = [
        (a, b)
        for a, b in sorted(all_pairs(vectors, ids, 0.4))
        if visits[a, home[b]] or visits[b, home[a]]
    ]
    assert found(cell_join(vectors, ids, cells, 0.4)) == expected
    assert 0 < len(expected) < len(all_pairs(vectors, ids, 0.4))  # it can miss some, and does
    assert visits.sum() < 400 * 3


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
    stored, visitors = cells.stored(range(10)), cells.visitors(range(10), 2.0)
    assert sorted(r for c in range(10) for r in stored.of(c)) == list(range(200))
    for cell in range(10):
        expected = np.flatnonzero((nearest == cell).any(axis=1))
        np.testing.assert_array_equal(visitors.of(cell), expected)
    some = np.array([7, 3, 150])
    visits = cells.visits(some)
    for cell in range(10):
        np.testing.assert_array_equal(
            visits.of(cell), np.flatnonzero((nearest[some] == cell).any(axis=1))
        )


def test_empty_cells_are_no_trouble():
    vectors, ids = clustered(6), np.arange(6)
    probes = np.zeros((6, 1), np.int32)
    margins = np.zeros((6, 1), np.float16)
    cells = Cells(build_cells(vectors, ids).sketches, vectors[:3], probes, margins)
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
    margins = rng.random((500, 3)).astype(np.float16)
    for block in (1 << 18, 7):
        monkeypatch.setattr(cells, "PROBES_AT_ONCE", block)
        for some in (range(12), range(3, 9), range(5, 5)):
            members = cells._members(probes, margins, some, 0.5)
            for cell in some:
                near = (probes == cell) & (margins <= 0.5)
                expected = np.flatnonzero(near.any(axis=1))
                assert np.unique(members.of(cell)).tolist() == expected.tolist()
                assert len(members.of(cell)) == near.sum()
                assert (np.diff(members.of(cell)) >= 0).all()


def test_small_blocks_and_runs_of_cells_find_the_same(monkeypatch):
    vectors, ids = clustered(400), np.arange(400)
    built = build_cells(vectors, ids, cells=30, probes=6)
    whole = found(cell_join(vectors, ids, built, 0.7))
    for name in ("VISITORS_AT_ONCE", "_STORED_AT_ONCE", "CELLS_AT_ONCE"):
        monkeypatch.setattr(cells, name, 7)
    assert found(cell_join(vectors, ids, built, 0.7)) == whole
    again = build_cells(vectors, ids, cells=30, probes=6)
    np.testing.assert_array_equal(again.margins, built.margins)
