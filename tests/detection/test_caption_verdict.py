from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detection.caption_verdict import judge_caption
from pipeline.detection.errors import MeasureError
from pipeline.detection.verdict import GenerationEvidence, Match, Thresholds

T = Thresholds(clique_epsilon=0.15, clique_fraction=0.5, min_hits=3)
MATCHES = {
    "v": Match(image_id=10, tiled_l2=0.1, l2=0.06, nearest_ratio=0.3),
    "t": Match(image_id=20, tiled_l2=0.6, l2=0.4, masked_l2=0.05, masked_ratio=0.2),
    "?": Match(image_id=30, tiled_l2=0.1, l2=0.06),
    "-": Match(image_id=40, tiled_l2=0.6, l2=0.4, nearest_ratio=2.0),
}


def evidence_of(kinds):
    """One letter a generation; b: blank, s: made without a training set to search."""
    return [
        GenerationEvidence(
            generation_id=100 + i,
            matches=(MATCHES[kind],) if kind in MATCHES else (),
            blank=kind == "b",
            searched=kind != "s",
        )
        for i, kind in enumerate(kinds)
    ]


def distances_of(n, *cliques):
    distances = np.full((n, n), 0.5)
    for members in cliques:
        distances[np.ix_(members, members)] = 0.05
    np.fill_diagonal(distances, 0)
    return distances


@pytest.mark.parametrize(
    ("kinds", "clique", "expected"),
    [
        ("----------", [], "none"),
        # hits alone
        ("vvv-------", [], "verbatim"),
        ("vv--------", [], "undecided"),
        ("v---------", [], "undecided"),
        ("ttt-------", [], "template"),
        ("tt--------", [], "undecided"),
        ("vvt-------", [], "template"),
        ("vvvttt----", [], "verbatim"),
        # one match speaks for a large clique that it is in, not for one that it is beside
        ("v---------", [0, 1, 2, 3, 4], "verbatim"),
        ("v---------", [0, 1, 2, 3], "undecided"),
        ("v---------", [5, 6, 7, 8, 9], "undecided"),
        ("t---------", [0, 1, 2, 3, 4], "template"),
        ("vt--------", [1, 2, 3, 4, 5], "template"),
        # the model repeats itself, no training image matches
        ("----------", [0, 1, 2, 3, 4], "undecided"),
        ("----------", [0, 1, 2, 3], "none"),
        # a generation in doubt leaves the caption in doubt
        ("?---------", [], "undecided"),
        # no training set: the clique alone decides between undecided and none
        ("ssssssssss", [0, 1, 2, 3, 4], "undecided"),
        ("ssssssssss", [0, 1, 2, 3], "none"),
        # black frames are no clique
        ("bbbbbbbb--", [0, 1, 2, 3, 4, 5, 6, 7], "none"),
        # half of two is one: a clique still needs min_hits members
        ("v-", [], "undecided"),
        ("v-", [0, 1], "undecided"),
        ("v--", [0, 1, 2], "verbatim"),
        # nothing was generated, or too little for a clique and nothing was searched
        ("", [], "undecided"),
        ("ss", [], "undecided"),
        ("sss", [], "none"),
        ("--", [], "none"),
    ],
)
def test_branches(kinds, clique, expected):
    verdict = judge_caption(evidence_of(kinds), distances_of(len(kinds), clique), T)
    assert verdict.verdict == expected


def test_figures_by_hand():
    kinds = "-vt-v-?-b-"
    verdict = judge_caption(evidence_of(kinds), distances_of(10, [1, 4, 5], [8, 9]), T)
    assert verdict.n_generated == 10
    assert (verdict.n_hits, verdict.n_verbatim, verdict.rate) == (3, 2, 0.3)
    assert (verdict.ci_low, verdict.ci_high) == pytest.approx((0.1078, 0.6032), abs=1e-4)
    assert (verdict.clique_size, verdict.clique_ids) == (3, (101, 104, 105))
    assert verdict.clique_distance == pytest.approx(0.05)
    assert not verdict.clique_capped
    assert verdict.hit_ids == (101, 102, 104)
    assert verdict.image_ids == (10, 20)
    assert "".join(str(item.verdict)[0] for item in verdict.generations) == "nvtnvnunnn"


def test_a_clique_below_a_blank_one_is_found():
    distances = distances_of(12, [0, 1, 2, 3, 4, 5, 6], [7, 8, 9])
    verdict = judge_caption(evidence_of("bbbbbbbv----"), distances, T)
    assert verdict.clique_ids == (107, 108, 109)
    few = replace(T, clique_fraction=0.25)
    assert judge_caption(evidence_of("bbbbbbbv----"), distances, few).verdict == "verbatim"


def test_fractions_are_not_lost_to_rounding():
    # In binary 0.07 of 100 is above 7.
    limits = replace(T, clique_fraction=0.07)
    verdict = judge_caption(evidence_of("-" * 100), distances_of(100, range(7)), limits)
    assert verdict.verdict == "undecided"


def test_nothing_generated():
    verdict = judge_caption([], np.zeros((0, 0)), T)
    assert (verdict.n_generated, verdict.rate, verdict.ci_low, verdict.ci_high) == (0, 0, 0, 1)
    assert (verdict.clique_size, verdict.clique_distance) == (0, None)


@given(st.text("vt?-b", min_size=1, max_size=8), st.data())
@settings(max_examples=150, deadline=None)
def test_order_does_not_matter(kinds, data):
    n = len(kinds)
    values = data.draw(st.lists(st.sampled_from([0.05, 0.1, 0.3]), min_size=n * n, max_size=n * n))
    distances = np.triu(np.array(values).reshape(n, n), 1)
    distances += distances.T
    order = data.draw(st.permutations(range(n)))
    evidence = evidence_of(kinds)
    shuffled = judge_caption([evidence[i] for i in order], distances[np.ix_(order, order)], T)
    assert shuffled == judge_caption(evidence, distances, T)


def test_refuses():
    twice = evidence_of("v") * 2
    with pytest.raises(MeasureError, match="1 ids"):
        judge_caption(twice, np.zeros((2, 2)), T)
    with pytest.raises(MeasureError, match="3 ids"):
        judge_caption(evidence_of("vvv"), np.zeros((2, 2)), T)
