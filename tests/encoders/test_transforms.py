import numpy as np
import pytest
import timm
from PIL import Image
from sample_pictures import picture

from pipeline.encoders.transforms import IMAGENET_MEAN, IMAGENET_STD, Preparation, middle

PLAIN = ((0, 0, 0), (1, 1, 1))


def test_values_are_normalised():
    red = Image.new("RGB", (50, 40), (255, 0, 128))
    batch = Preparation(8, IMAGENET_MEAN, IMAGENET_STD)([red, red])
    assert batch.shape == (2, 3, 8, 8)
    by_hand = [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225]
    assert np.allclose(batch[0, :, 3, 3], by_hand, atol=1e-6)


@pytest.mark.parametrize("crop", [0.875, 1.0])
@pytest.mark.parametrize("shape", [(160, 120), (120, 160), (100, 100), (333, 101)])
def test_the_crop_is_that_of_timm(shape, crop):
    image = picture(0, *shape)
    theirs = timm.data.create_transform(
        64, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=crop, interpolation="bicubic"
    )
    ours = Preparation(64, *PLAIN, crop)([image])[0]
    assert (ours - theirs(image)).abs().mean() < 0.01


@pytest.mark.parametrize("shape", [(160, 120), (1000, 700), (40, 333)])
def test_resizing_is_pillow_s_to_a_grey_level(shape):
    image = picture(1, *shape)
    ours = 255 * Preparation(64, *PLAIN, skew=True)([image])[0].permute(1, 2, 0).numpy()
    theirs = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC), np.float32)
    assert (np.abs(ours - theirs) > 1.5).mean() < 0.005  # enlarging may clip where Pillow does not
    assert np.abs(ours - theirs).mean() < 0.2


def test_pictures_may_be_reduced_to_twice_the_input():
    assert Preparation(224, *PLAIN, skew=True).least_side == 448
    assert Preparation(224, *PLAIN, crop=0.875).least_side == 512


def test_skewing_keeps_the_corners():
    image = Image.new("RGB", (300, 100), "black")
    image.paste((255, 255, 255), (0, 0, 60, 100))
    assert Preparation(32, *PLAIN, skew=True)([image])[0, 0, 16, 0] > 0.9
    assert Preparation(32, *PLAIN)([image])[0, 0, 16, 0] < 0.1


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (7, 90_000)])
def test_very_long_pictures_stay_small(shape):
    """Scaled by the shorter side, 1 x 100,000 would be 224 x 22,400,000 pixels: 15 GB."""
    assert Preparation(224, *PLAIN)([Image.new("RGB", shape)]).shape == (1, 3, 224, 224)


def test_the_middle_is_the_middle():
    image = Image.new("RGB", (101, 1))
    image.putpixel((50, 0), (255, 0, 0))
    trimmed = middle(image)
    assert trimmed.size == (16, 1)
    assert trimmed.getpixel((50 - (101 - 16) // 2, 0)) == (255, 0, 0)
    assert middle(image.transpose(Image.Transpose.ROTATE_90)).size == (1, 16)
    assert middle(picture(0)) is not None
    assert middle(picture(0)).size == picture(0).size
