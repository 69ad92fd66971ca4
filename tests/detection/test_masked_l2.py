import numpy as np
import pytest

from pipeline.detection.errors import MeasureError
from pipeline.detection.masked_l2 import masked_l2, template_mask


def product_pictures(n=5, seed=0):
    """One scene whose lower right quarter is another product every time."""
    rng = np.random.default_rng(seed)
    scene = rng.integers(0, 256, (16, 16, 3), np.uint8)
    pictures = np.repeat(scene[None], n, axis=0)
    pictures[:, 8:, 8:] = rng.integers(0, 256, (n, 8, 8, 3), np.uint8)
    return pictures


def test_mask_is_what_does_not_vary():
    expected = np.ones((16, 16), bool)
    expected[8:, 8:] = False
    mask = template_mask(product_pictures(20))
    assert mask is not None and np.array_equal(mask, expected)
    as_float = (product_pictures(20) / 255).astype(np.float32)
    assert np.array_equal(template_mask(as_float), expected)


def test_mask_does_not_depend_on_order():
    pictures = product_pictures()
    assert np.array_equal(template_mask(pictures), template_mask(pictures[::-1]))


def test_spread_at_the_threshold():
    pictures = product_pictures(2).astype(np.float32) / 255
    pictures[0, 0, 0], pictures[1, 0, 0] = 0.4, 0.5  # a standard deviation of 0.05
    pictures[0, 0, 1], pictures[1, 0, 1] = 0.4, 0.49
    mask = template_mask(pictures, min_pictures=2)
    assert mask is not None and not mask[0, 0] and mask[0, 1]


def test_no_template():
    rng = np.random.default_rng(1)
    assert template_mask(product_pictures(2)) is None
    assert template_mask(product_pictures(0)) is None
    assert template_mask(rng.integers(0, 256, (5, 16, 16, 3), np.uint8)) is None
    narrow = rng.integers(0, 256, (5, 16, 16, 3), np.uint8)
    narrow[:, :3] = narrow[:1, :3]  # 3/16 of the picture
    assert template_mask(narrow) is None
    assert template_mask(narrow, min_area=0.18) is not None


def test_a_white_background_is_no_template():
    pictures = np.full((5, 16, 16, 3), 255, np.uint8)
    pictures[:, 5:11, 5:11] = np.random.default_rng(2).integers(0, 200, (5, 6, 6, 3))
    assert template_mask(pictures) is None
    assert template_mask(pictures, min_contrast=0.0) is not None


def test_masked_l2_equals_loop():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 256, (2, 3, 9, 7, 3), np.uint8)
    mask = rng.random((9, 7)) < 0.4
    for i in range(3):
        squares = [
            ((int(a[i, y, x, c]) - int(b[i, y, x, c])) / 255) ** 2
            for y, x in zip(*np.nonzero(mask), strict=True)
            for c in range(3)
        ]
        expected = (sum(squares) / len(squares)) ** 0.5
        assert masked_l2(a, b, mask)[i] == pytest.approx(expected, abs=1e-12)


def test_what_varies_does_not_count():
    pictures = product_pictures()
    mask = template_mask(pictures)
    assert masked_l2(pictures[:1], pictures[1:2], mask)[0] == 0.0


@pytest.mark.parametrize(
    "mask", [np.zeros((16, 16), bool), np.ones((16, 15), bool), np.ones((16, 16), np.uint8)]
)
def test_refuses(mask):
    with pytest.raises(MeasureError, match="mask"):
        masked_l2(product_pictures(), product_pictures(), mask)
