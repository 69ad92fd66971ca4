from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from pipeline.detection.errors import MeasureError
from pipeline.detection.verdict import (
    GenerationEvidence,
    Match,
    Thresholds,
    is_common,
    judge_generation,
    leaning,
    shows_nothing,
)

T = Thresholds()
COPY = Match(image_id=1, tiled_l2=0.1, l2=0.06, nearest_ratio=0.3)
FAR = Match(image_id=2, tiled_l2=0.6, l2=0.4, nearest_ratio=2.0)
TEMPLATE = replace(FAR, image_id=3, masked_l2=0.05, masked_ratio=0.2)


def verdict_of(*matches, blank=False, thresholds=T):
    return judge_generation(GenerationEvidence(9, matches, blank), thresholds).verdict


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (COPY, "verbatim"),
        (FAR, "none"),
        (TEMPLATE, "template"),
        # verbatim: each limit on its own
        (replace(COPY, tiled_l2=0.2), "verbatim"),
        (replace(COPY, tiled_l2=0.200001), "none"),
        (replace(COPY, l2=0.15), "verbatim"),
        (replace(COPY, l2=0.150001), "none"),
        (replace(COPY, nearest_ratio=0.7), "verbatim"),
        (replace(COPY, nearest_ratio=0.700001), "none"),
        # rounded to 6 decimals before the comparison
        (replace(COPY, tiled_l2=0.2 + 4e-7), "verbatim"),
        # a pixel copy needs no neighbours, and survives near-duplicates in another group
        (replace(COPY, tiled_l2=0.02, l2=0.01, nearest_ratio=None), "verbatim"),
        (replace(COPY, tiled_l2=0.02, l2=0.01, nearest_ratio=1.0), "verbatim"),
        # without the ratio the 50 neighbours decide, strictly below 1; with it they do not
        (replace(COPY, nearest_ratio=None, l2_ratio_50nn=0.999), "verbatim"),
        (replace(COPY, nearest_ratio=None, l2_ratio_50nn=1.0), "none"),
        (replace(COPY, l2_ratio_50nn=5.0), "verbatim"),
        (replace(COPY, nearest_ratio=None), "undecided"),
        (replace(COPY, nearest_ratio=float("inf")), "none"),
        # template: each limit on its own
        (replace(TEMPLATE, masked_l2=0.11), "template"),
        (replace(TEMPLATE, masked_l2=0.110001), "none"),
        (replace(TEMPLATE, masked_ratio=0.700001), "none"),
        (replace(TEMPLATE, masked_ratio=None), "undecided"),
        (replace(TEMPLATE, masked_l2=None), "none"),
        # a simple picture near many others is not verbatim, and may still be a template
        (replace(COPY, nearest_ratio=0.9, masked_l2=0.05, masked_ratio=0.2), "template"),
        # a training image of one colour proves nothing
        (replace(COPY, tiled_l2=0.0, l2=0.0, blank=True), "none"),
        (replace(TEMPLATE, blank=True), "none"),
    ],
)
def test_one_match(match, expected):
    assert verdict_of(match) == expected


def test_blank_generation_is_none():
    assert verdict_of(COPY, TEMPLATE, replace(COPY, nearest_ratio=None), blank=True) == "none"


@pytest.mark.parametrize(
    ("matches", "blank", "expected"),
    [
        ((), False, False),
        ((), True, True),
        ((COPY,), False, False),
        ((replace(COPY, blank=True),), False, True),
        ((replace(COPY, blank=True, tiled_l2=0.200001),), False, False),
        ((replace(COPY, blank=True, l2=0.150001),), False, False),
        # a real picture is nearer than the placeholder
        ((replace(COPY, blank=True), replace(COPY, tiled_l2=0.09)), False, False),
    ],
)
def test_a_copy_of_a_placeholder_shows_nothing(matches, blank, expected):
    assert shows_nothing(GenerationEvidence(9, matches, blank), T) is expected


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (None, False),
        (replace(COPY, nearest_ratio=0.9), True),
        (replace(COPY, nearest_ratio=0.7), False),
        (replace(COPY, nearest_ratio=None), False),
        (replace(COPY, nearest_ratio=0.9, tiled_l2=0.15), True),
        (replace(COPY, nearest_ratio=0.9, tiled_l2=0.150001), False),
    ],
)
def test_a_common_object_is_as_near_to_several_groups(match, expected):
    matches = () if match is None else (match,)
    assert is_common(GenerationEvidence(9, matches), T) is expected


def test_descriptor_only_raises_doubt_and_only_where_its_limit_is_given():
    alike = replace(FAR, similarity=0.8)
    assert verdict_of(alike) == "none"
    limited = replace(T, copy_similarity=0.75)
    assert verdict_of(alike, thresholds=limited) == "undecided"
    assert verdict_of(replace(alike, similarity=0.74), thresholds=limited) == "none"
    assert verdict_of(replace(COPY, similarity=0.1), thresholds=limited) == "verbatim"


def test_no_match_and_no_search_differ():
    nothing_near = judge_generation(GenerationEvidence(9), T)
    no_index = judge_generation(GenerationEvidence(9, searched=False), T)
    assert (nothing_near.verdict, nothing_near.image_id) == ("none", None)
    assert (no_index.verdict, no_index.image_id) == ("undecided", None)
    blank = judge_generation(GenerationEvidence(9, blank=True, searched=False), T)
    assert blank.verdict == "none"


def test_the_strongest_match_stands_in_any_order():
    doubt = replace(COPY, image_id=4, tiled_l2=0.05, nearest_ratio=None)
    nearer_copy = replace(COPY, image_id=8, tiled_l2=0.09)
    equal_copy = replace(COPY, image_id=5, tiled_l2=0.09 + 1e-8)
    for matches in permutations([doubt, COPY, nearer_copy, equal_copy, TEMPLATE]):
        judged = judge_generation(GenerationEvidence(9, matches), T)
        assert (judged.generation_id, judged.verdict, judged.image_id) == (9, "verbatim", 5)
    for matches in permutations([doubt, FAR, TEMPLATE]):
        judged = judge_generation(GenerationEvidence(9, matches), T)
        assert (judged.verdict, judged.image_id) == ("template", 3)
    assert judge_generation(GenerationEvidence(9, (FAR, doubt)), T).image_id == 4
    assert judge_generation(GenerationEvidence(9, (FAR,)), T).image_id is None


@pytest.mark.parametrize(
    "change",
    [{"tiled_l2": np.nan}, {"l2": -0.1}, {"nearest_ratio": np.nan}, {"similarity": np.nan}],
)
def test_refuses(change):
    with pytest.raises(MeasureError, match="None if unknown"):
        replace(COPY, **change)


def leans_to(*matches, blank=False):
    nearest = leaning(GenerationEvidence(9, matches, blank), T)
    return None if nearest is None else nearest.image_id


def test_a_generation_leans_to_the_image_that_is_nearest_as_a_whole():
    tile, whole = Match(1, 0.1, 0.3, l2_ratio=0.1), Match(2, 0.5, 0.2, l2_ratio=0.7)
    assert leans_to(tile, whole) == 2  # the worst tile does not count
    assert leans_to(tile, replace(whole, l2_ratio=0.700001)) is None
    assert leans_to(tile, replace(whole, l2_ratio=None)) is None
    assert leans_to(tile, replace(whole, blank=True)) is None
    assert leans_to(whole, blank=True) is None
    assert leans_to() is None
    assert leans_to(replace(whole, image_id=8), replace(whole, image_id=5)) == 5


def test_near_duplicates_are_one_picture():
    assert Match(4, 0.1, 0.1).picture == 4
    assert Match(4, 0.1, 0.1, group_id=2).picture == 2
