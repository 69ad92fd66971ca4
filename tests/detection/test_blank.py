import numpy as np
import pytest

from pipeline.detection.blank import contrast, is_blank
from pipeline.detection.errors import MeasureError


def plain(colour):
    return np.full((1, 32, 32, 3), colour, np.uint8)


@pytest.mark.parametrize("colour", [0, 255, (255, 0, 40)])
def test_one_colour_is_blank(colour):
    assert is_blank(plain(colour)).tolist() == [True]
    assert contrast(plain(colour))[0] == pytest.approx(0, abs=1e-12)


def test_compression_noise_is_blank():
    noise = np.random.default_rng(0).integers(-3, 4, (1, 32, 32, 3))
    assert is_blank((plain(250) + noise).astype(np.uint8))[0]


def test_a_small_icon_on_white_is_not_blank():
    picture = plain(255)
    picture[0, 14:18, 14:18] = 0
    # 16 of 1024 pixels: sqrt(p (1 - p)) for p = 1/64
    assert contrast(picture)[0] == pytest.approx((1 / 64 * 63 / 64) ** 0.5)
    assert not is_blank(picture)[0]


def test_float_pictures_agree():
    picture = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), np.uint8)
    as_float = (picture / 255).astype(np.float32)
    assert np.allclose(contrast(picture), contrast(as_float), rtol=0, atol=1e-6)


def test_the_threshold_is_exclusive():
    picture = plain(0).astype(np.float32)
    picture[:, :16] = 0.5
    assert contrast(picture)[0] == 0.25
    assert not is_blank(picture, max_contrast=0.25)[0]
    assert is_blank(picture, max_contrast=0.250001)[0]


def test_no_pictures():
    assert is_blank(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0,)


def test_refuses():
    with pytest.raises(MeasureError):
        is_blank(np.zeros((32, 32, 3), np.uint8))
