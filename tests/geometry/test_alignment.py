import math

import numpy as np
import pytest
from PIL import Image
from sample_pictures import textured

from pipeline.geometry import LocalFeatures, align, local_features
from pipeline.geometry.alignment import _matches


def worst_corner(found, expected, grey):
    height, width = grey.shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float)
    return np.abs(corners @ found.matrix.T - corners @ np.asarray(expected).T).max()


def test_a_picture_lies_on_itself():
    features = local_features(textured(1))
    found = align(features, features)
    assert worst_corner(found, [[1, 0, 0], [0, 1, 0]], features.grey) < 0.1
    assert found.inliers == found.matches > 50


def test_a_crop_is_found_where_it_was_cut():
    """160 pixels show 320 of the whole, 160 of the crop: half the scale, moved by the corner.

    A corner of a coarse level lies on one of its pixels, which are up to 3.6 of the picture's.
    """
    whole = textured(2, 320, 240)
    crop = whole.crop((80, 60, 240, 180))
    a, b = local_features(crop, 400), local_features(whole, 400)
    found = align(a, b)
    assert worst_corner(found, [[0.5, 0, 40], [0, 0.5, 30]], a.grey) < 3.6
    assert abs(found.scale - 0.5) < 0.02


@pytest.mark.parametrize("degrees", [5, -20, 90])
def test_a_turn_is_found(degrees):
    picture = textured(3, 256, 256)
    turned = picture.rotate(degrees, Image.Resampling.BICUBIC)
    a, b = local_features(picture), local_features(turned)
    found = align(a, b)
    angle = math.degrees(math.atan2(-found.matrix[1, 0], found.matrix[0, 0]))
    assert abs(angle - degrees) < 1


def test_a_changed_aspect_needs_an_affine_map():
    picture = textured(4, 320, 240)
    squeezed = picture.resize((320, 180))
    a, b = local_features(picture), local_features(squeezed)
    assert worst_corner(align(a, b), [[1, 0, 0], [0, 0.75, 0]], a.grey) < 1.5


def test_the_inverse_undoes_the_matrix():
    a, b = (local_features(textured(5).crop((0, 0, w, 200))) for w in (320, 250))
    found = align(a, b)
    both = np.vstack([found.matrix, [0, 0, 1]]) @ np.vstack([found.inverse, [0, 0, 1]])
    assert np.allclose(both, np.eye(3))


def test_strangers_and_empty_pictures_have_no_alignment_worth_the_name():
    empty = LocalFeatures(
        np.zeros((10, 10), np.uint8), np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8)
    )
    a, b = local_features(textured(6)), local_features(textured(7))
    assert align(a, empty) is None
    assert align(empty, empty) is None
    found = align(a, b)
    assert found is None or found.inliers < 8
    assert align(a, b, least_matches=1000) is None


def test_matches_are_those_of_a_brute_force():
    """Against numpy's count of the bits that differ, with every rule of the text."""
    pictures = textured(8), textured(8).rotate(10)
    a, b = (local_features(picture).descriptors for picture in pictures)
    bits = np.bitwise_count(a[:, None] ^ b[None]).sum(axis=2, dtype=int)
    expected = []
    for row, gaps in enumerate(bits):
        column = gaps.argmin()
        second = np.delete(gaps, column).min()
        if gaps[column] < 0.8 * second and bits[:, column].argmin() == row:
            expected.append((row, column))
    rows, columns = _matches(a, b, 3)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == expected
    assert len(expected) > 10
    assert len(_matches(a, b, 1000)[0]) == 0
