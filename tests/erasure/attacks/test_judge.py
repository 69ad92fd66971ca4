import numpy as np
import pytest

from pipeline.detection.verdict import Thresholds
from pipeline.erasure.attacks.judge import crop, judge
from pipeline.erasure.attacks.subject import WHOLE

LIMITS = Thresholds()
RIGHT = (0.0, 0.5, 1.0, 1.0)
NONE = np.zeros((0, 1, 1, 3), np.uint8)


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, 16, 16, 3), np.uint8)


def near(picture, amount=8):
    noise = np.random.default_rng(1).integers(-amount, amount + 1, picture.shape)
    return (picture.astype(int) + noise).clip(0, 255).astype(np.uint8)


def shown(drawing, own, others, box=WHOLE):
    return judge(drawing[None], own, [others], LIMITS, box).shown.tolist()


def test_a_near_copy_shows_the_picture_and_another_picture_does_not(scene):
    own, other, _ = scene
    assert shown(near(own), own[None], other[None]) == [True]
    assert shown(other, own[None], other[None]) == [False]


def test_a_copy_must_stand_out_from_other_training_pictures(scene):
    """On plain pictures everything is near: what lies as near to others shows none of them."""
    own = np.full((16, 16, 3), 200, np.uint8)
    own[4:8, 4:8] = 160
    other = own.copy()
    other[8:12, 8:12] = 170
    drawing = np.full((16, 16, 3), 200, np.uint8)
    drawing[2:4, 2:4] = 160
    assert shown(drawing, own[None], NONE) != [True]  # alone it cannot be said
    assert shown(drawing, own[None], other[None]) == [False]
    assert shown(near(own, 2), own[None], other[None]) == [True]


def test_any_near_duplicate_of_the_picture_counts(scene):
    own, other, copy = scene
    assert shown(near(copy), np.stack([own, copy]), other[None]) == [True]


def test_only_the_box_is_judged(scene):
    own, other, _ = scene
    half = own.copy()
    half[:, 8:] = other[:, 8:]
    assert shown(half, own[None], other[None], RIGHT) == [False]
    half = other.copy()
    half[:, 8:] = own[:, 8:]
    assert shown(half, own[None], other[None], RIGHT) == [True]
    assert shown(half, own[None], other[None]) == [False]


def test_a_blank_drawing_shows_nothing(scene):
    plain = np.full((1, 16, 16, 3), 7, np.uint8)
    assert shown(plain[0], plain, scene[:1]) == [False]


def test_crop_takes_shares_of_the_sides(scene):
    assert np.array_equal(crop(scene, RIGHT), scene[:, :, 8:])
    assert np.array_equal(crop(scene, (0.0, 0.0, 0.5, 1.0)), scene[:, :8])


def test_the_distance_is_to_the_nearest_of_the_own(scene):
    found = judge(scene[:1], scene, [NONE], LIMITS, WHOLE)
    assert found.tiled_l2.tolist() == [0.0]
