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
    "c": Match(image_id=50, tiled_l2=0.1, l2=0.06, nearest_ratio=0.95),  # others are as near
    "p": Match(image_id=60, tiled_l2=0.1, l2=0.06, nearest_ratio=0.3, blank=True),  # a placeholder
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
        # a common object drawn alike, but for one member of the clique
        ("cccccc----", [0, 1, 2, 3, 4, 5], "none"),
        ("ccccc-----", [0, 1, 2, 3, 4, 5], "undecided"),
        ("vccccc----", [0, 1, 2, 3, 4, 5], "verbatim"),
        # placeholders drawn alike are no clique
        ("pppppp----", [0, 1, 2, 3, 4, 5], "none"),
        ("ppppvv----", [0, 1, 2, 3, 4, 5], "undecided"),
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


def leaning(image_id, group_id=None, ratio=0.65):
    """A drawing that alone is no hit: too far, but much nearer to one training image."""
    match = Match(image_id, 0.3, 0.2, nearest_ratio=0.9, l2_ratio=ratio, group_id=group_id)
    return GenerationEvidence(generation_id=1000 + image_id, matches=(match,))


def judged(*evidence):
    return judge_caption(list(evidence), distances_of(len(evidence)), T)


def test_drawings_that_agree_on_a_training_picture_are_template_hits():
    copies = [leaning(i, group_id=7) for i in range(3)]
    others = [leaning(i) for i in range(10, 13)]
    verdict = judged(*copies, *others)
    assert (verdict.verdict, verdict.n_hits) == ("template", 3)
    assert verdict.image_ids == (0, 1, 2)
    assert [g.verdict for g in verdict.generations] == ["template"] * 3 + ["none"] * 3


@pytest.mark.parametrize(
    "evidence",
    [
        [leaning(i) for i in range(6)],  # each nearest to another picture
        [leaning(i, 7) for i in range(2)] + [leaning(i) for i in range(10, 12)],  # below min_hits
        [leaning(i, 7) for i in range(3)] + [leaning(i) for i in range(10, 14)],  # below half
        [leaning(i, 7, ratio=0.71) for i in range(6)],  # another picture is about as near
        [leaning(i, 7, ratio=None) for i in range(6)],  # there is no other picture
        [replace(leaning(i, 7), blank=True) for i in range(6)],
    ],
)
def test_drawings_that_do_not_agree_are_none(evidence):
    verdict = judged(*evidence)
    assert (verdict.verdict, verdict.n_hits) == ("none", 0)


def test_agreement_leaves_stronger_verdicts_as_they_are():
    exact = GenerationEvidence(1, (Match(0, 0.01, 0.01, 0.1, l2_ratio=0.1, group_id=7),))
    verdict = judged(exact, leaning(1, 7), leaning(2, 7))
    assert [g.verdict for g in verdict.generations] == ["verbatim", "template", "template"]
    assert verdict.verdict == "template" and verdict.n_verbatim == 1


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
