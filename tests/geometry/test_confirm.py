"""The rule on edits whose origin is known."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sample_pictures import textured

from pipeline.calibration.edits import EDITS, write_on
from pipeline.geometry import local_features, same_picture

PICTURES = 6


def features(picture):
    return local_features(picture)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_the_same_picture(edit):
    found = 0
    for number in range(PICTURES):
        original, other = textured(number), textured(100 + number)
        edited = EDITS[edit](original, np.random.default_rng(number), other)
        found += same_picture(features(original), features(edited))
    # a line of writing covers a fifth of these small pictures
    assert found >= (4 if edit == "text" else PICTURES - 1), f"{found} of {PICTURES}"


def test_strangers_are_not():
    everything = [features(textured(number)) for number in range(12)]
    pairs = [(a, b) for i, a in enumerate(everything) for b in everything[:i]]
    assert not any(same_picture(a, b) for a, b in pairs)


def test_strangers_under_the_same_words_are_not():
    """The words align, and they alone agree."""
    for number in range(6):
        written = [
            features(write_on(textured(n), np.random.default_rng(3))) for n in (number, 50 + number)
        ]
        assert not same_picture(*written)


def test_different_things_before_one_background_are_not():
    """Half of the picture is the thing; the other half aligns and agrees."""
    for number in range(6):
        pictures = []
        for n in (number, 70 + number):
            scene = textured(200 + number)
            thing = textured(n).resize((scene.width * 7 // 10, scene.height * 7 // 10))
            scene.paste(thing, (scene.width * 15 // 100, scene.height * 15 // 100))
            pictures.append(features(scene))
        assert not same_picture(*pictures)


def test_the_order_does_not_matter_where_the_answer_is_clear():
    for number in range(4):
        a = features(textured(number))
        b = features(EDITS["crop50"](textured(number), np.random.default_rng(0), textured(9)))
        assert same_picture(a, b) and same_picture(b, a)


def test_pictures_with_nothing_in_them_are_never_the_same():
    blank = features(Image.new("RGB", (200, 200), "white"))
    assert not same_picture(blank, blank)
    line = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(line).line((0, 100, 200, 100), fill="black", width=3)
    assert not same_picture(features(line), blank)
