import time

import numpy as np
import pytest
from graph_builder import graphs, make_pairs, union_find
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.components import (
    diameter,
    greedy_cover,
    weakest_links,
)
from indexes.errors import VectorError
from indexes.join import Pairs, exact_classes, stars
from indexes.labels import connected_components


def cover_by_hand(ids, rank, edges):
    """The definition, with sets and loops: (kept, representative, similarity) by id."""
    near = {i: {} for i in ids}
    for a, b, s in edges:
        near[a][b] = near[b][a] = s
    kept = []
    for _, i in sorted(zip(rank, ids, strict=True)):
        if not any(j in near[i] for j in kept):
            kept.append(i)
    answer = {}
    for i in ids:
        if i in kept:
            answer[i] = (True, i, 1.0)
        else:
            s, j = min((-near[i][j], j) for j in kept if j in near[i])
            answer[i] = (False, j, -s)
    return answer


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_components_are_those_of_union_find(graph):
    ids, _, edges = graph
    pairs = make_pairs(edges)
    assert connected_components(ids, pairs.id_a, pairs.id_b).tolist() == union_find(ids, edges)
    order = np.argsort(-ids)
    turned = connected_components(ids[order], pairs.id_b[::-1], pairs.id_a[::-1])
    assert turned.tolist() == [union_find(ids, edges)[i] for i in order]


def test_components_without_edges_are_the_ids():
    ids, none = np.array([2**62, 3]), np.zeros(0, np.int64)
    assert connected_components(ids, none, none).tolist() == ids.tolist()
    assert len(connected_components(none, none, none)) == 0


def test_repeated_edges_and_loops_do_no_harm():
    """More repeats than an int8 can count."""
    a, b = np.full(256, 1), np.full(256, 2)
    assert connected_components(np.array([1, 2, 3]), a, b).tolist() == [1, 1, 3]
    assert connected_components(np.array([1, 2]), np.array([1]), np.array([1])).tolist() == [1, 2]


def test_an_edge_to_an_unknown_id_is_refused():
    with pytest.raises(VectorError, match="id 9 "):
        connected_components(np.array([1, 2]), np.array([1]), np.array([9]))
    with pytest.raises(VectorError, match="id 9 "):
        greedy_cover(np.array([1, 2]), np.array([0, 1]), make_pairs([(1, 9, 0.7)]))
    with pytest.raises(VectorError, match="1 ranks"):
        greedy_cover(np.array([1, 2]), np.array([0]), make_pairs([]))


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_the_cover_is_that_of_the_definition(graph):
    ids, rank, edges = graph
    cover = greedy_cover(ids, rank, make_pairs(edges))
    expected = cover_by_hand(ids.tolist(), rank.tolist(), edges)
    found = zip(cover.kept, cover.representative, cover.similarity, strict=True)
    assert list(found) == [expected[i] for i in ids.tolist()]


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_the_two_guarantees(graph):
    ids, rank, edges = graph
    cover = greedy_cover(ids, rank, make_pairs(edges))
    kept = set(ids[cover.kept].tolist())
    near = {frozenset(edge[:2]): edge[2] for edge in edges}
    assert not any(a in kept and b in kept for a, b, _ in edges)
    for i, j, s in zip(ids.tolist(), cover.representative.tolist(), cover.similarity, strict=True):
        assert j in kept
        assert i == j or near[frozenset((i, j))] == s


def test_a_chain_keeps_its_far_end():
    """1 - 2 - 3 - 4: connected components would keep one, though 1 and 3 are no neighbours."""
    cover = greedy_cover(
        np.arange(1, 5), np.arange(4), make_pairs([(1, 2, 0.7), (2, 3, 0.9), (3, 4, 0.8)])
    )
    assert cover.kept.tolist() == [True, False, True, False]
    assert cover.representative.tolist() == [1, 3, 3, 3]
    assert cover.similarity.tolist() == [1, 0.9, 1, 0.8]


@settings(max_examples=200, deadline=None)
@given(graphs(), st.lists(st.integers(0, 4), min_size=14, max_size=14))
def test_classes_give_what_the_full_graph_of_copies_gives(graph, labels):
    """Stars and edges among centres must act as if every copy had every edge of its class."""
    ids, rank, edges = graph
    keys = labels[: len(ids)]
    rank = rank * 1000 + np.argsort(np.argsort(ids))  # no ties: the expansion changes no order
    centre = dict(zip(ids.tolist(), exact_classes(keys, ids).tolist(), strict=True))
    among = [(a, b, s) for a, b, s in edges if centre[a] == a and centre[b] == b]
    star = stars(keys, ids)
    star_edges = list(zip(star.id_a.tolist(), star.id_b.tolist(), star.similarity, strict=True))
    cover = greedy_cover(ids, rank, make_pairs(among + star_edges), exact_classes(keys, ids))

    near = {frozenset(edge[:2]): edge[2] for edge in among}
    full = []
    for i in ids.tolist():
        for j in ids.tolist():
            same = centre[i] == centre[j]
            s = 1.0 if same else near.get(frozenset((centre[i], centre[j])))
            if i < j and s is not None:
                full.append((i, j, s))
    expected = cover_by_hand(ids.tolist(), rank.tolist(), full)
    found = zip(cover.kept, cover.representative, cover.similarity, strict=True)
    assert list(found) == [expected[i] for i in ids.tolist()]


def test_copies_of_a_dropped_centre_go_to_its_survivor():
    """10, 11, 12 are copies; 5 is kept and 0.7 from the centre 10, so 0.7 from all of them."""
    ids = np.array([12, 5, 11, 10])
    class_of = np.array([10, 5, 10, 10])
    pairs = make_pairs([(10, 11, 1.0), (10, 12, 1.0), (5, 10, 0.7)])
    cover = greedy_cover(ids, np.array([1, 0, 2, 3]), pairs, class_of)
    assert cover.representative.tolist() == [5, 5, 5, 5]
    assert cover.similarity.tolist() == [0.7, 1, 0.7, 0.7]
    kept_class = greedy_cover(ids, np.array([0, 1, 2, 3]), pairs, class_of)
    assert kept_class.representative.tolist() == [12, 12, 12, 12]
    assert kept_class.similarity.tolist() == [1, 0.7, 1, 1]


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(0, 10**6))
def test_row_order_does_not_change_the_cover(graph, seed):
    ids, rank, edges = graph
    order = np.random.default_rng(seed).permutation(len(ids))
    one = greedy_cover(ids, rank, make_pairs(edges))
    two = greedy_cover(ids[order], rank[order], make_pairs(edges))
    assert np.array_equal(one.representative[order], two.representative)
    assert np.array_equal(one.similarity[order], two.similarity)


def test_half_a_million_edges_take_seconds():
    n = 200_000
    rng = np.random.default_rng(0)
    a = rng.integers(0, n - 1, 500_000)
    b = np.minimum(a + rng.integers(1, 50, len(a)), n - 1)
    hub = np.stack([np.zeros(n // 2, np.int64), np.arange(1, n // 2 + 1)])
    a, b = np.concatenate([a[a < b], hub[0]]), np.concatenate([b[a < b], hub[1]])
    started = time.process_time()
    greedy_cover(np.arange(n), rng.permutation(n), Pairs(a, b, rng.random(len(a))))
    assert time.process_time() - started < 10


def test_equally_good_copies_keep_the_smallest_id():
    cover = greedy_cover(np.array([8, 3, 5]), np.zeros(3), make_pairs([]), np.array([3, 3, 3]))
    assert cover.representative.tolist() == [3, 3, 3]


GRAPHS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(50, 100).map(lambda s: s / 100)),
    max_size=25,
)


@settings(deadline=None)
@given(GRAPHS)
def test_weakest_links_are_where_components_fall_apart(edges):
    ids, pairs = np.arange(10), make_pairs(edges)
    weakest = weakest_links(ids, pairs)
    whole = connected_components(ids, pairs.id_a, pairs.id_b)
    for i in range(10):
        mates = np.flatnonzero(whole == whole[i])
        if len(mates) == 1:
            assert np.isnan(weakest[i])
            continue
        for above, together in ((0.0, True), (1e-9, False)):
            near = pairs.similarity >= weakest[i] + above
            parts = connected_components(ids, pairs.id_a[near], pairs.id_b[near])
            assert (len(set(parts[mates])) == 1) is together


def farthest_by_hand(pairs):
    nodes = sorted({*pairs.id_a.tolist(), *pairs.id_b.tolist()})
    steps = {(a, b): 0 if a == b else np.inf for a in nodes for b in nodes}
    for a, b in zip(pairs.id_a.tolist(), pairs.id_b.tolist(), strict=True):
        steps[a, b] = steps[b, a] = 1
    for via in nodes:
        for a in nodes:
            for b in nodes:
                steps[a, b] = min(steps[a, b], steps[a, via] + steps[via, b])
    return max(steps.values())


@pytest.mark.parametrize(
    ("edges", "length"),
    [
        ([(0, 1)], 1),
        ([(0, 1), (1, 2), (2, 3), (3, 4)], 4),
        ([(5, 0), (5, 1), (5, 2)], 2),  # a star
        ([(0, 1), (1, 2), (0, 2)], 1),  # all near all
        ([(3, 1), (1, 4), (4, 0), (4, 2), (2, 6)], 4),
    ],
)
def test_diameter_of_trees_and_cliques(edges, length):
    pairs = make_pairs([(a, b, 0.9) for a, b in edges])
    assert diameter(pairs) == length == farthest_by_hand(pairs)


@settings(deadline=None)
@given(GRAPHS.filter(lambda edges: any(a != b for a, b, _ in edges)))
def test_diameter_is_never_too_large(edges):
    pairs = make_pairs(edges)
    label = connected_components(np.arange(10), pairs.id_a, pairs.id_b)[pairs.id_a]
    one = label == label[0]
    part = Pairs(pairs.id_a[one], pairs.id_b[one], pairs.similarity[one])
    assert 1 <= diameter(part) <= farthest_by_hand(part)
