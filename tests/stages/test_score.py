"""Counting pairs and labelling truth, against counting by hand."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.score import _curve, _recall, _scored, label, pair_counts


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=20))
def test_pair_counts_agree_with_every_pair(rows):
    pictures, groups = (np.array(column) for column in zip(*rows, strict=True))
    planted = found = false = 0
    for i, j in combinations(range(len(rows)), 2):
        same_picture, same_group = pictures[i] == pictures[j], groups[i] == groups[j]
        planted += same_picture
        found += same_picture and same_group
        false += same_group and not same_picture
    expected = {"planted": planted, "found": found, "missed": planted - found, "false": false}
    assert pair_counts(pictures, groups) == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (1.0, "positive"),
        (0.5, "positive"),
        (0.49, "partial"),
        (0.06, "partial"),
        (0.05, "negative"),
        (0.0, "negative"),
    ],
)
def test_label(p, expected):
    assert label(p) == expected


def _row(truth, verdict, picture="a"):
    return {"truth": truth, "verdict": verdict, "picture_id": picture}


def test_recall_counts_partial_ones_apart():
    rows = [_row("positive", "verbatim"), _row("positive", "none"), _row("partial", "verbatim")]
    rows += [_row("negative", "none"), _row("negative", "template"), _row("negative", "undecided")]
    result = _recall(rows)
    assert (result["found_positive"], result["positive"], result["recall"]) == (1, 2, 0.5)
    assert (result["false_findings"], result["negative"], result["partial"]) == (1, 3, 1)
    assert result["undecided"] == {"negative": 1}


def test_curve_pools_drawings_by_copies():
    rows = [
        {"k": k, "reproduced": hit, "picture_id": str(i), "prompt_id": i}
        for i, (k, hit) in enumerate([(1, False), (1, False), (8, True), (8, False)])
    ]
    points = {point["k"]: point for point in _curve(rows)}
    assert points[1]["rate"] == 0 and points[8]["rate"] == 0.5
    assert points[8]["ci_low"] == pytest.approx(0.0945, abs=1e-3)  # Wilson, 1 of 2


def test_a_drawing_of_another_training_picture_is_memorization_too():
    fields = {"prompt_id": 1, "caption": "c", "picture_id": "a", "planted": True}
    fields |= {"k": 2, "k_caption": 1}
    shown = ["a", "b", "b", None]
    truth = [fields | {"reproduced": p == "a", "reproduced_picture": p} for p in shown]
    finding = {"verdict": "verbatim", "rate": 0.5, "noise_gap": None}
    (row,) = _scored(truth, {1: finding})
    assert (row["p_truth"], row["p_other"], row["truth"]) == (0.25, 0.5, "positive")
    (point,) = _curve(truth)
    assert point["hits"] == 1  # the curve is about the caption's own picture
