"""Hubs: who belongs to one, that they are near each other, and that order does not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import indexes
from indexes.components import Clique, greedy_cover
from indexes.hubs import hub_leaders, hub_radius, make_hubs, nearest_leader, similarity_bound
from indexes.join import Pairs


def cloud(n, spread, seed=0, d=24):
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal(d)
    centre /= np.linalg.norm(centre)
    return indexes.unit(centre + spread * rng.standard_normal((n, d)) / np.sqrt(d))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.8, 0.9, 0.97]), st.floats(0.02, 0.5))
def test_members_are_near_each_other_by_the_bound(seed, threshold, spread):
    vectors = np.concatenate([cloud(60, spread, seed), cloud(10, 1.0, seed + 1)])
    leaders = hub_leaders(vectors, len(vectors), threshold, 5, "cosine")
    place, scores = nearest_leader(vectors, vectors[leaders], threshold, "cosine")
    exact = indexes.cosine(
        np.repeat(vectors, len(vectors), axis=0), np.tile(vectors, (len(vectors), 1))
    ).reshape(len(vectors), -1)
    for number, leader in enumerate(leaders):
        assert place[leader] == number and scores[leader] == 1
        mine = np.flatnonzero(place == number)
        assert exact[np.ix_(mine, mine)].min() >= threshold
        bounds = np.array([similarity_bound(scores[mine], s[None], "cosine") for s in scores[mine]])
        assert (bounds <= exact[np.ix_(mine, mine)] + 5e-6).all() and bounds.min() >= threshold
    inside = exact[:, leaders].max(axis=1, initial=-1) >= hub_radius(threshold, "cosine")
    assert np.array_equal(place >= 0, inside)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60))
def test_codes_are_near_each_other_by_the_bound(seed, bits):
    rng = np.random.default_rng(seed)
    codes = np.repeat(rng.integers(0, 256, (1, 32), np.uint8), 40, axis=0)
    for row in codes:
        flipped = rng.integers(0, 256, rng.integers(0, 40))
        np.bitwise_xor.at(row, flipped // 8, (1 << (flipped % 8)).astype(np.uint8))
    leaders = hub_leaders(codes, 40, bits, 3, "hamming")
    place, scores = nearest_leader(codes, codes[leaders], bits, "hamming")
    apart = np.bitwise_count(codes[:, None] ^ codes[None]).sum(axis=2, dtype=int)
    for number, leader in enumerate(leaders):
        mine = np.flatnonzero(place == number)
        assert np.array_equal(scores[mine], 1 - apart[leader, mine] / 256)
        assert apart[np.ix_(mine, mine)].max() <= bits
        for one in mine:
            bound = similarity_bound(scores[mine], scores[[one]], "hamming")
            assert (bound <= 1 - apart[one, mine] / 256 + 1e-12).all()


def test_a_small_sample_finds_a_large_hub_and_no_pair():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([cloud(4000, 0.05), cloud(6000, 5.0, 1)])
    vectors[-3000:] = vectors[4000:7000]  # pairs
    sample = np.sort(rng.choice(len(vectors), 400, replace=False))
    leaders = hub_leaders(vectors[sample], len(vectors), 0.9, 1000, "cosine")
    assert len(leaders) == 1 and sample[leaders[0]] < 4000


def test_small_hubs_are_none():
    hubs = make_hubs(np.array([7, 3, 7, 7]), np.array([9, 3, 7, 8]), np.ones(4), 2)
    assert hubs.leader.tolist() == [7, 7, 7] and hubs.member.tolist() == [7, 8, 9]
    assert len(make_hubs(np.array([7, 3]), np.array([9, 3]), np.ones(2), 2)) == 0


NONE = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def test_of_a_clique_one_is_kept_though_no_pair_says_so():
    ids = np.arange(6)
    clique = Clique(np.array([1, 2, 4]), np.array([1.0, 0.99, 0.98]))
    cover = greedy_cover(ids, np.array([0, 3, 2, 1, 1, 0]), NONE, cliques=[clique])
    assert cover.kept.tolist() == [True, False, False, True, True, True]
    assert cover.representative.tolist() == [0, 4, 4, 3, 4, 5]
    expected = np.cos(np.arccos(0.99) + np.arccos(0.98))
    assert cover.similarity[2] == pytest.approx(expected, abs=1e-6)
    assert cover.similarity[1] == pytest.approx(0.98)


def test_where_the_leader_is_dropped_one_member_stands_for_the_rest():
    """0 is near the leader 1, not known to be near 2 and 3: those need one of themselves."""
    pairs = Pairs(np.array([0, 1, 1]), np.array([1, 2, 3]), np.array([0.93, 0.99, 0.98]))
    clique = Clique(np.array([1, 2, 3]), np.array([1.0, 0.99, 0.98]))
    cover = greedy_cover(np.arange(4), np.arange(4), pairs, cliques=[clique])
    assert cover.kept.tolist() == [True, False, True, False]
    assert cover.representative.tolist() == [0, 2, 2, 2]  # 1 is nearer to 2 than to 0


@pytest.mark.parametrize("joined", ["all", "cells"])
def test_a_join_with_too_many_pairs_says_so_and_names_the_crowd(joined):
    vectors = np.concatenate([cloud(50, 3.0, 2), cloud(300, 0.02, 3)])
    ids = np.arange(len(vectors)) + 1000
    with pytest.raises(indexes.TooManyPairs, match=r"more than 1,000 .* id ") as raised:
        if joined == "all":
            indexes.self_join(vectors, ids, 0.9, max_pairs=1000)
        else:
            cells = indexes.build_cells(vectors, ids, cells=4, probes=2)
            indexes.cell_join(vectors, ids, cells, 0.9, max_pairs=1000)
    assert raised.value.centre >= 1050
    few = vectors[:60]
    assert len(indexes.self_join(few, ids[:60], 0.9, max_pairs=1000)) >= 45
