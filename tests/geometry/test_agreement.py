import numpy as np
from sample_pictures import textured

from pipeline.geometry import agreement, local_features

IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


def grey(number):
    return local_features(textured(number, 256, 192)).smooth


def test_equal_pictures_agree_in_full():
    a = grey(1)
    found = agreement(a, a, IDENTITY)
    assert (found.overlap, found.agreeing, found.textured) == (1, 1, 1)


def test_gain_and_offset_are_fitted_away():
    a = grey(2)
    dimmed = np.round(0.5 * a + 40).astype(np.uint8)
    assert agreement(a, dimmed, IDENTITY).agreeing == 1


def test_strangers_do_not_agree():
    found = agreement(grey(3), grey(4), IDENTITY)
    assert found.agreeing < 0.4
    assert found.textured < 0.3


def test_what_was_replaced_counts_by_its_area():
    """The right half is another picture's: 5 of 10 columns of tiles, one more by the blur."""
    a, b = grey(5), grey(6)
    mixed = a.copy()
    mixed[:, 80:] = b[:, 80:]
    found = agreement(a, mixed, IDENTITY)
    alone = agreement(a[:, 80:], b[:, 80:], IDENTITY).agreeing  # what agrees by chance
    expected = 0.5 + 0.5 * alone
    assert abs(found.agreeing - expected) < 1 / 10 + 0.02


def test_overlap_is_of_the_picture_that_is_covered_more():
    """A quarter of the first lies on the whole second: of the second all is covered."""
    a = grey(7)
    cut = np.ascontiguousarray(a[:60, :80])
    found = agreement(cut, a, IDENTITY)
    assert found.overlap == 1
    beside = np.array([[1.0, 0, 80], [0, 1, 0]])  # moved by half of the width
    assert abs(agreement(a, a, beside).overlap - 0.5) < 0.01


def test_flat_pictures_have_no_texture_to_agree_in():
    flat = np.full((64, 64), 200, np.uint8)
    found = agreement(flat, flat, IDENTITY)
    assert found.agreeing == 1
    assert found.textured == 0


def test_too_small_a_share_is_none():
    a = grey(8)
    away = np.array([[1.0, 0, 185], [0, 1, 130]])
    found = agreement(a, a, away)
    assert (found.agreeing, found.textured) == (0, 0)
