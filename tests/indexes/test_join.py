from itertools import chain, combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import indexes
from indexes import join
from indexes.errors import TooManyPairs, VectorError


def as_rows(pairs):
    return list(zip(pairs.id_a.tolist(), pairs.id_b.tolist(), pairs.similarity, strict=True))


def by_brute_force(vectors, ids, threshold):
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    table = np.round(wide @ wide.T, 6)
    return sorted(
        (min(ids[i], ids[j]), max(ids[i], ids[j]), table[i, j])
        for i, j in np.argwhere(np.triu(table >= threshold, 1))
    )


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(join, "_VECTORS_AT_ONCE", 37)
    monkeypatch.setattr("indexes.radius._QUERIES_AT_ONCE", 11)


@pytest.mark.parametrize("threshold", [-1.0, 0.5, 0.8, 1.0])
def test_the_join_is_the_upper_triangle(threshold, clusters, some_ids):
    vectors, ids = clusters(200, 16), some_ids(200)
    vectors[20:25] = vectors[20]
    found = as_rows(indexes.self_join(vectors, ids, threshold))
    assert found == by_brute_force(vectors, ids, threshold)
    assert len(found) >= 10


def test_blocks_do_not_change_the_join(clusters, some_ids, small_blocks):
    vectors, ids = clusters(300, 16), some_ids(300)
    assert as_rows(indexes.self_join(vectors, ids, 0.6)) == by_brute_force(vectors, ids, 0.6)


def test_an_index_that_visits_all_lists_gives_the_exact_join(clusters, some_ids):
    vectors, ids = clusters(500, 16), some_ids(500)
    for factory in ("Flat", "IVF12,Flat"):
        index = indexes.build(vectors, ids, metric="cosine", factory=factory, nprobe=12)
        found = indexes.self_join(vectors, ids, 0.6, index=index)
        assert as_rows(found) == by_brute_force(vectors, ids, 0.6)


def test_an_index_that_skips_lists_invents_no_pair(clusters, some_ids):
    vectors, ids = clusters(500, 16), some_ids(500)
    index = indexes.build(vectors, ids, metric="cosine", factory="IVF40,SQ8", nprobe=1)
    found = as_rows(indexes.self_join(vectors, ids, 0.6, index=index))
    true = by_brute_force(vectors, ids, 0.6)
    assert 0 < len(found) < len(true)
    assert set(found) < set(true)


def test_an_index_over_other_rows_is_refused(clusters, some_ids):
    vectors, ids = clusters(100, 16), some_ids(100)
    fewer = indexes.build(vectors[:99], ids[:99], metric="cosine")
    with pytest.raises(VectorError, match="other ids"):
        indexes.self_join(vectors, ids, 0.6, index=fewer)
    with pytest.raises(VectorError, match="another metric"):
        indexes.self_join(vectors, ids, 0.6, index=indexes.build(vectors, ids, metric="l2"))


def split(n, cuts):
    edges = [0, *sorted(cut % (n + 1) for cut in cuts), n]
    return [slice(a, b) for a, b in pairwise(edges)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 10**6), max_size=5), st.booleans())
def test_parts_of_any_split_and_order_make_the_whole(seed, cuts, indexed):
    rng = np.random.default_rng(seed)
    n = 90
    vectors = indexes.unit(
        np.repeat(rng.normal(size=(30, 6)), 3, 0) + 0.4 * rng.normal(size=(n, 6))
    )
    vectors[10:14] = vectors[10]
    ids = rng.permutation(10**6)[:n]
    order = rng.permutation(n)
    index = None
    if indexed:
        index = indexes.build(vectors, ids, metric="cosine", factory="IVF9,Flat", nprobe=2)
    whole = as_rows(indexes.self_join(vectors, ids, 0.7, index=index))
    moved, moved_ids = vectors[order], ids[order]
    parts = [
        as_rows(indexes.self_join(moved, moved_ids, 0.7, rows=rows, index=index))
        for rows in split(n, cuts)
    ]
    assert all(part == sorted(part) for part in parts)
    assert sorted(chain(*parts)) == whole


def test_a_pair_belongs_to_the_part_of_its_smaller_id(clusters):
    vectors = np.repeat(clusters(1, 8), 3, axis=0)
    ids = np.array([30, 10, 20])
    owned = [as_rows(indexes.self_join(vectors, ids, 1, rows=slice(i, i + 1))) for i in range(3)]
    assert owned == [[], [(10, 20, 1.0), (10, 30, 1.0)], [(20, 30, 1.0)]]


def test_fifty_copies_make_all_their_pairs(clusters, some_ids):
    vectors, ids = clusters(300, 16, noise=3), some_ids(300)
    vectors[100:150] = vectors[100]
    found = indexes.self_join(vectors, ids, 0.999)
    assert len(found) == 50 * 49 // 2
    assert set(found.id_a) | set(found.id_b) == set(ids[100:150])
    assert (found.similarity == 1).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_a_lower_threshold_only_adds_and_a_stranger_adds_nothing(seed):
    rng = np.random.default_rng(seed)
    vectors = np.zeros((40, 9), np.float32)
    vectors[:, :8] = indexes.unit(rng.normal(size=(40, 8)))
    ids = rng.permutation(1000)[:40]
    low, high = (as_rows(indexes.self_join(vectors, ids, t)) for t in (0.3, 0.5))
    assert high == [row for row in low if row[2] >= 0.5]
    stranger = np.zeros((1, 9), np.float32)
    stranger[0, 8] = 1
    with_stranger = indexes.self_join(np.vstack([vectors, stranger]), np.append(ids, 5000), 0.3)
    assert as_rows(with_stranger) == low


def test_the_threshold_is_compared_in_float64_at_six_decimals():
    angle = np.arccos([1.0, 0.6000004, 0.5999996, 0.5999994])
    vectors = np.zeros((4, 5), np.float32)
    vectors[:, 0] = np.cos(angle)
    vectors[[1, 2, 3], [1, 2, 3]] = np.sin(angle[1:])
    found = indexes.self_join(indexes.unit(vectors), np.arange(4), 0.6)
    assert [(a, b) for a, b, _ in as_rows(found)] == [(0, 1), (0, 2)]
    assert found.similarity.tolist() == [0.6, 0.6]


def test_hamming_join_counts_bits(codes, some_ids, small_blocks):
    stored, ids = codes(200), some_ids(200)
    stored[40:44] = stored[40]
    bits = np.unpackbits(stored, axis=1)
    distance = (bits[:, None] != bits).sum(2)
    for bound in (0, 31, 60):
        expected = sorted(
            (min(ids[i], ids[j]), max(ids[i], ids[j]), 1 - distance[i, j] / 256)
            for i, j in np.argwhere(np.triu(distance <= bound, 1))
        )
        assert as_rows(indexes.hamming_join(stored, ids, bound)) == expected
        parts = [
            as_rows(indexes.hamming_join(stored, ids, bound, rows=rows))
            for rows in (slice(0, 61), slice(61, 62), slice(62, None))
        ]
        assert sorted(chain(*parts)) == expected
        assert len(expected) >= 6


def several_codes(seed, n=60):
    """Codes of n ids, some with two or three, some mirrored; in no order."""
    rng = np.random.default_rng(seed)
    mirror = np.packbits(rng.integers(0, 2, 256).astype(np.uint8))
    centres = rng.integers(0, 256, (n // 3, 32), dtype=np.uint8)
    owner = np.r_[np.arange(n), rng.integers(0, n, n // 2)]
    noise = np.packbits(rng.random((len(owner), 256)) < 0.07, axis=1)
    codes = centres[rng.integers(0, len(centres), len(owner))] ^ noise
    turned = rng.random(len(owner)) < 0.4
    codes[turned] ^= mirror
    order = rng.permutation(len(owner))
    return codes[order], rng.permutation(10**6)[:n][owner[order]], mirror


def nearest_codes(codes, ids, mirror, bound):
    """By the definition, one pair of ids after the other: the least distance of any two codes."""
    found = []
    for a, b in combinations(np.unique(ids).tolist(), 2):
        images = codes[ids == b]
        images = images if mirror is None else np.concatenate([images, images ^ mirror])
        bits = np.unpackbits(codes[ids == a][:, None] ^ images, axis=2).sum(axis=2).min()
        if bits <= bound:
            found.append((a, b, 1 - bits / 256))
    return found


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.lists(st.integers(0, 60)))
def test_ids_with_several_codes_are_as_near_as_the_nearest(seed, turned, tables, cuts):
    codes, ids, mirror = several_codes(seed)
    mirror = mirror if turned else None
    expected = nearest_codes(codes, ids, mirror, 31)
    assert any(a[2] > b[2] for a, b in pairwise(expected))
    with pytest.MonkeyPatch.context() as patch:
        if tables:
            patch.setattr("indexes.multi_index.VISIT", 1e-9)
            patch.setattr("indexes.multi_index.CANDIDATE", 1e-9)
        assert as_rows(indexes.hamming_join(codes, ids, 31, mirror=mirror)) == expected
        parts = [
            as_rows(indexes.hamming_join(codes, ids, 31, mirror=mirror, rows=rows))
            for rows in split(60, cuts)
        ]
        assert sorted(chain(*parts)) == expected


@pytest.mark.parametrize("turned", [False, True])
def test_with_fresh_ids_only_their_pairs_come_out(turned):
    codes, ids, mirror = several_codes(5)
    mirror = mirror if turned else None
    new = np.unique(ids)[::3]
    every = nearest_codes(codes, ids, mirror, 31)
    expected = [row for row in every if np.isin(row[:2], new).any()]
    assert 0 < len(expected) < len(every)
    fresh = np.isin(ids, new)
    found = [
        as_rows(indexes.hamming_join(codes, ids, 31, mirror=mirror, rows=rows, fresh=fresh))
        for rows in (slice(0, 7), slice(7, None))
    ]
    assert sorted(chain(*found)) == expected


@pytest.mark.parametrize("turned", [False, True])
def test_the_distance_of_given_ids(turned):
    codes, ids, mirror = several_codes(6)
    mirror = mirror if turned else None
    expected = nearest_codes(codes, ids, mirror, 256)
    id_a, id_b, similarity = (np.array(column) for column in zip(*expected, strict=True))
    found = indexes.least_hamming(codes, ids, id_b, id_a, mirror=mirror)
    assert np.array_equal(found, (1 - similarity) * 256)
    strange = indexes.least_hamming(codes, ids, id_a[:2], np.array([-1, 10**7]), mirror=mirror)
    assert np.isinf(strange).all()


def test_too_many_pairs_name_an_id(codes):
    many = np.repeat(codes(1), 40, axis=0)
    with pytest.raises(TooManyPairs) as refused:
        indexes.hamming_join(many, np.arange(40) // 2 + 7, 31, max_pairs=50)
    assert 7 <= refused.value.centre < 27


def test_copies_are_a_star_around_the_smallest_id():
    keys = ["b", "a", "b", "c", "b", "a"]
    ids = np.array([50, 40, 30, 20, 60, 45])
    assert indexes.exact_classes(keys, ids).tolist() == [30, 40, 30, 20, 30, 40]
    assert as_rows(indexes.stars(keys, ids)) == [(30, 50, 1.0), (30, 60, 1.0), (40, 45, 1.0)]


def test_hashes_that_differ_in_trailing_zeros_are_different():
    keys = [b"a", b"a\x00", b"a\x00\x00"]
    assert len(indexes.stars(keys, np.arange(3))) == 0


def test_empty_and_single_sets_have_no_pairs(clusters):
    for n in (0, 1):
        assert len(indexes.self_join(clusters(2, 8)[:n], np.arange(n), 0.5)) == 0
        assert len(indexes.hamming_join(np.zeros((n, 32), np.uint8), np.arange(n), 9)) == 0
        assert len(indexes.stars(["x"] * n, np.arange(n))) == 0
