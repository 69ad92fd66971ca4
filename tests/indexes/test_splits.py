"""Chains are cut at their weakest links: against the definition, by recursion, on small graphs."""

import time

import numpy as np
import pytest
from graph_builder import graphs, make_pairs, union_find
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.join import exact_classes, stars
from indexes.splits import split_chains


def pieces_by_hand(ids, edges):
    """Cut the last merge of single linkage until a piece has a star."""
    ranked = sorted(((-s, min(a, b), max(a, b)) for a, b, s in edges))
    answer = {}

    def split(members):
        inside = [e for e in ranked if e[1] in members and e[2] in members]
        near = {
            i: {e[1] for e in inside if e[2] == i} | {e[2] for e in inside if e[1] == i}
            for i in members
        }
        if any(len(near[i]) == len(members) - 1 for i in members):
            answer.update(dict.fromkeys(members, min(members)))
            return
        for last in range(len(inside), -1, -1):
            edges = [(a, b, -s) for s, a, b in inside[:last]]
            roots = union_find(sorted(members), edges)
            if len(set(roots)) > 1:  # the first `last` edges do not hold it together any more
                for root in set(roots):
                    split({i for i, r in zip(sorted(members), roots, strict=True) if r == root})
                return

    roots = union_find(ids, edges)
    for root in set(roots):
        split({i for i, r in zip(ids, roots, strict=True) if r == root})
    return [answer[i] for i in ids]


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_pieces_are_those_of_the_definition(graph):
    ids, _, edges = graph
    found = split_chains(ids, make_pairs(edges))
    assert found.tolist() == pieces_by_hand(ids.tolist(), edges)


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(0, 10**6))
def test_the_order_of_rows_does_not_matter(graph, seed):
    ids, _, edges = graph
    order = np.random.default_rng(seed).permutation(len(ids))
    one, two = (split_chains(i, make_pairs(edges)) for i in (ids, ids[order]))
    assert np.array_equal(one[order], two)


def test_a_chain_falls_into_stars_and_a_star_stays():
    chain = make_pairs([(0, 1, 0.99), (1, 2, 0.95), (2, 3, 0.91), (3, 4, 0.96), (4, 5, 0.97)])
    assert split_chains(np.arange(6), chain).tolist() == [0, 0, 0, 3, 3, 3]
    star = make_pairs([(5, i, 0.9 + i / 100) for i in range(5)])
    assert split_chains(np.arange(6), star).tolist() == [0] * 6


@settings(max_examples=100, deadline=None)
@given(graphs(), st.lists(st.integers(0, 4), min_size=14, max_size=14))
def test_copies_stay_with_their_centre_and_do_not_make_a_chain(graph, labels):
    ids, _, edges = graph
    keys = labels[: len(ids)]
    classes = exact_classes(keys, ids)
    among = [(a, b, s) for a, b, s in edges if a in classes and b in classes]
    star = stars(keys, ids)
    copies = list(zip(star.id_a.tolist(), star.id_b.tolist(), star.similarity, strict=True))
    found = split_chains(ids, make_pairs(among + copies), classes)
    centres = np.unique(classes)
    expected = dict(zip(centres.tolist(), pieces_by_hand(centres.tolist(), among), strict=True))
    assert found.tolist() == [expected[c] for c in classes.tolist()]


@pytest.mark.parametrize("shape", ["rising chain", "random tree", "star"])
def test_giants_are_cheap(shape):
    n = 100_000
    rng = np.random.default_rng(0)
    b = np.arange(1, n)
    a = {"rising chain": b - 1, "random tree": rng.integers(0, b), "star": 0 * b}[shape]
    s = np.linspace(0.9, 1, n - 1) if shape == "rising chain" else rng.random(n - 1)
    started = time.process_time()
    found = split_chains(np.arange(n), make_pairs(zip(a.tolist(), b.tolist(), s, strict=True)))
    assert time.process_time() - started < 15
    assert (len(np.unique(found)) == 1) is (shape == "star")
