from dataclasses import replace
from itertools import combinations
from math import comb

import pytest

from pipeline.detection.errors import MeasureError
from pipeline.detection.unconditional import judge_unconditional, rarefied
from pipeline.detection.verdict import GenerationEvidence, Match, Thresholds

T = Thresholds()
FAR = Match(1, tiled_l2=0.5, l2=0.3, nearest_ratio=0.9, l2_ratio_50nn=1.6)
COPY = Match(2, tiled_l2=0.1, l2=0.06, nearest_ratio=0.3, l2_ratio_50nn=0.3)


def judged(*matches, **more):
    found = judge_unconditional(GenerationEvidence(9, matches, **more), T)
    return found.verdict, found.image_id


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (FAR, ("none", None)),
        (COPY, ("verbatim", 2)),
        (replace(COPY, l2_ratio_50nn=0.999999), ("verbatim", 2)),
        (replace(COPY, l2_ratio_50nn=1.0), ("none", None)),  # near, but so are 50 others
        (replace(COPY, l2_ratio_50nn=0.9999999), ("none", None)),  # rounded to 6 decimals
        (replace(FAR, l2_ratio_50nn=0.9), ("verbatim", 1)),
        (replace(FAR, masked_l2=0.05, masked_ratio=0.2), ("template", 1)),
        (replace(COPY, blank=True), ("none", None)),
    ],
)
def test_one_match(match, expected):
    assert judged(match) == expected


def test_the_image_nearest_by_l2_decides():
    assert judged(replace(COPY, l2=0.4), FAR) == ("none", None)
    assert judged(COPY, FAR) == ("verbatim", 2)
    assert judged(COPY, replace(FAR, l2=0.01, blank=True)) == ("verbatim", 2)


def test_blank_unsearched_and_alone():
    assert judged(COPY, blank=True) == ("none", None)
    assert judged(searched=False) == ("undecided", None)
    assert judged() == ("none", None)


@pytest.mark.parametrize("smaller", range(7))
def test_rarefied_is_the_mean_over_all_subsets(smaller):
    """By counting: samples 0..5, image a shown by 0, 1, 2, image b by 3, none by 4 and 5."""
    shown = {0: "a", 1: "a", 2: "a", 3: "b"}
    subsets = [{shown.get(i) for i in s} - {None} for s in combinations(range(6), smaller)]
    mean = sum(map(len, subsets)) / comb(6, smaller)
    assert rarefied([3, 1], 6, smaller) == pytest.approx(mean)


def test_rarefied_ends():
    assert rarefied([], 10, 5) == 0
    assert rarefied([4, 5], 1_000_000, 1_000_000) == pytest.approx(2)
    for wrong in ([11], [-1]):
        with pytest.raises(MeasureError):
            rarefied(wrong, 10, 5)
    with pytest.raises(MeasureError):
        rarefied([1], 10, 11)
