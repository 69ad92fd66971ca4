import numpy as np
import pytest

from pipeline.detection.blank import contrast, is_blank, structure
from pipeline.detection.errors import MeasureError


def plain(colour):
    return np.full((1, 32, 32, 3), colour, np.uint8)


def surface(shape, function):
    """A picture whose brightness is a function of coordinates in [-1, 1]."""
    v, u = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    grey = np.clip(function(u, v), 0, 1).astype(np.float32)
    return np.repeat(grey[None, ..., None], 3, axis=-1)


@pytest.mark.parametrize("colour", [0, 255, (255, 0, 40)])
def test_one_colour_is_blank(colour):
    assert is_blank(plain(colour)).tolist() == [True]
    assert contrast(plain(colour))[0] == pytest.approx(0, abs=1e-12)


def test_compression_noise_is_blank():
    noise = np.random.default_rng(0).integers(-3, 4, (1, 32, 32, 3))
    assert is_blank((plain(250) + noise).astype(np.uint8))[0]


@pytest.mark.parametrize("shape", [(32, 32), (48, 20), (512, 512)])
@pytest.mark.parametrize(
    "function",
    [
        lambda u, v: 0.5 + 0.5 * u,
        lambda u, v: 0.5 - 0.2 * u + 0.3 * v,
        lambda u, v: 0.9 - 0.4 * (u * u + v * v),  # a vignette
    ],
)
def test_gradients_are_blank_and_with_a_disc_on_them_are_not(shape, function):
    picture = surface(shape, function)
    assert contrast(picture)[0] > 0.1
    assert is_blank(picture)[0] and is_blank((picture * 255).astype(np.uint8))[0]
    disc = surface(shape, lambda u, v: np.where(u * u + v * v < 0.04, 0.1, function(u, v)))
    assert not is_blank(disc)[0]


def test_structure_is_the_residual_of_a_least_squares_fit():
    """Against numpy's solver on the design matrix, channel by channel."""
    pictures = np.random.default_rng(1).integers(0, 256, (3, 9, 14, 3), np.uint8)
    v, u = np.meshgrid(np.arange(9.0), np.arange(14.0), indexing="ij")
    design = np.stack([u**0, u, v, u * u, u * v, v * v], axis=-1).reshape(-1, 6)
    for picture, found in zip(pictures, structure(pictures), strict=True):
        channels = picture.reshape(-1, 3) / 255
        fitted = design @ np.linalg.lstsq(design, channels, rcond=None)[0]
        assert found == pytest.approx(np.sqrt(np.mean((channels - fitted) ** 2)), rel=1e-9)


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
    assert np.allclose(structure(picture), structure(as_float), rtol=0, atol=1e-6)


def test_the_threshold_is_exclusive():
    picture = plain(0).astype(np.float32)
    picture[:, ::2, ::2] = 0.5
    found = float(structure(picture)[0].round(6))
    assert found > 0.1
    assert not is_blank(picture, max_structure=found)[0]
    assert is_blank(picture, max_structure=found + 1e-6)[0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2)])
def test_a_picture_too_small_to_show_anything_is_blank(shape):
    flat = np.random.default_rng(0).integers(100, 102, (1, *shape, 3), np.uint8)
    assert is_blank(flat)[0]


def test_no_pictures():
    assert is_blank(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0,)


def test_refuses():
    with pytest.raises(MeasureError):
        is_blank(np.zeros((32, 32, 3), np.uint8))
