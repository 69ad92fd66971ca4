import numpy as np
import pytest

from pipeline.erasure.targets import Target, no_pictures
from pipeline.errors import InputError


def test_the_hash_changes_with_captions_and_pictures_and_not_with_the_group():
    pictures = np.zeros((1, 4, 4, 3), np.uint8)
    other = pictures.copy()
    other[0, 0, 0, 0] = 1
    base = Target(1, ("a", "b"), pictures)
    assert Target(2, ("a", "b"), pictures.copy()).sha256 == base.sha256
    assert Target(1, ("ab",), pictures).sha256 != base.sha256
    assert Target(1, ("a", "b"), other).sha256 != base.sha256


def test_a_target_without_captions_is_refused():
    with pytest.raises(InputError, match="target 5: no caption"):
        Target(5, (), no_pictures())


def test_pictures_must_be_square_and_in_colour():
    with pytest.raises(InputError, match=r"target 5: pictures of shape \(1, 4, 4\)"):
        Target(5, ("a",), np.zeros((1, 4, 4), np.uint8))
