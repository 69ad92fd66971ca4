import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detection.cliques import largest_clique
from pipeline.detection.errors import MeasureError


def symmetric(n, values):
    distances = np.zeros((n, n))
    for (i, j), value in zip(itertools.combinations(range(n), 2), values, strict=True):
        distances[i, j] = distances[j, i] = value
    return distances


def brute_force(distances, epsilon):
    """Every subset, the largest first; then the smallest sum, then the first members."""
    n = len(distances)
    for size in range(n, 0, -1):
        found = []
        for members in itertools.combinations(range(n), size):
            pairs = [distances[i, j] for i, j in itertools.combinations(members, 2)]
            if all(pair < epsilon for pair in pairs):
                found.append((math.fsum(pairs), members))
        if found:
            total, members = min(found)
            return members, total / math.comb(size, 2) if size > 1 else math.nan
    return (), math.nan


@st.composite
def distance_matrices(draw):
    n = draw(st.integers(0, 9))
    # Multiples of 1/8: many ties, and sums that are exact.
    values = draw(st.lists(st.integers(0, 8), min_size=n * (n - 1) // 2, max_size=n * (n - 1) // 2))
    return symmetric(n, [value / 8 for value in values])


@given(distance_matrices(), st.sampled_from([0.2, 0.5, 0.8, 1.1]))
@settings(max_examples=400, deadline=None)
def test_equals_brute_force(distances, epsilon):
    clique = largest_clique(distances, epsilon)
    members, mean = brute_force(distances, epsilon)
    assert clique.members == members
    assert clique.mean_distance == pytest.approx(mean, nan_ok=True)
    assert not clique.capped


@given(distance_matrices(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_does_not_depend_on_the_order_of_nodes(distances, random):
    order = list(range(len(distances)))
    random.shuffle(order)
    clique = largest_clique(distances, 0.6)
    shuffled = largest_clique(distances[np.ix_(order, order)], 0.6)
    assert len(shuffled.members) == len(clique.members)
    assert shuffled.mean_distance == pytest.approx(clique.mean_distance, nan_ok=True, abs=0)


@pytest.mark.parametrize("density", [0.3, 0.7, 0.9])
def test_planted_clique_among_sixty(density):
    rng = np.random.default_rng(0)
    distances = np.triu(np.where(rng.random((60, 60)) < density, 0.14, 0.3), 1)
    distances += distances.T
    planted = np.sort(rng.choice(60, 30, replace=False))
    distances[np.ix_(planted, planted)] = 0.03
    clique = largest_clique(distances, 0.15)
    assert set(planted) <= set(clique.members)
    assert not clique.capped
    between = distances[np.ix_(clique.members, clique.members)]
    assert (between[~np.eye(len(clique.members), dtype=bool)] < 0.15).all()


def test_a_thousand_alike_take_no_time_and_no_recursion():
    clique = largest_clique(np.full((1200, 1200), 0.01), 0.15)
    assert clique.members == tuple(range(1200))
    assert clique.mean_distance == pytest.approx(0.01)
    assert not clique.capped


def test_tighter_of_two_triangles_then_first():
    far = dict.fromkeys(itertools.combinations(range(6), 2), 0.9)
    triangles = {(0, 1): 0.1, (0, 2): 0.1, (1, 2): 0.1, (3, 4): 0.1, (3, 5): 0.05, (4, 5): 0.1}
    values = far | triangles
    pairs = list(itertools.combinations(range(6), 2))
    assert largest_clique(symmetric(6, [values[p] for p in pairs]), 0.15).members == (3, 4, 5)
    values[3, 5] = 0.1
    assert largest_clique(symmetric(6, [values[p] for p in pairs]), 0.15).members == (0, 1, 2)


def test_edges_are_strictly_below_epsilon_after_rounding():
    assert largest_clique(symmetric(2, [0.15]), 0.15).members == (0,)
    assert largest_clique(symmetric(2, [0.15 - 4e-7]), 0.15).members == (0,)
    assert largest_clique(symmetric(2, [0.149999]), 0.15).members == (0, 1)


def test_cap_is_reported_and_still_gives_a_clique():
    # The complement of a perfect matching on 40 nodes has 2^20 cliques of 20.
    distances = np.full((40, 40), 0.1)
    for i in range(0, 40, 2):
        distances[i, i + 1] = distances[i + 1, i] = 0.9
    clique = largest_clique(distances, 0.15, cap=500)
    assert clique.capped
    assert len(clique.members) == 20
    assert len({member // 2 for member in clique.members}) == 20
    assert clique == largest_clique(distances, 0.15, cap=500)


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (np.zeros((2, 3)), "square"),
        (np.array([[0, np.nan], [np.nan, 0]]), "finite"),
        (np.array([[0, -1.0], [-1.0, 0]]), "finite"),
        (np.array([[0, 1.0], [0.5, 0]]), "symmetric"),
    ],
)
def test_refuses(distances, message):
    with pytest.raises(MeasureError, match=message):
        largest_clique(distances, 0.15)
