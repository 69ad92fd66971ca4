import numpy as np
import pytest
from PIL import Image
from sample_pictures import picture, recompressed

from pipeline.encoders.pixels import Pixels


def block_means(image, size):
    """The picture at size x size in float64, for sides that are multiples of it."""
    pixels = np.asarray(image, np.float64)
    height, width, _ = pixels.shape
    return pixels.reshape(size, height // size, size, width // size, 3).mean((1, 3)) / 255


@pytest.mark.parametrize("size", [8, 16, 32])
def test_the_distance_is_the_rms_difference_of_the_small_pictures(size):
    a, b = picture(0, 192, 128), picture(1, 192, 128)
    u, v = Pixels(size).encode([a, b]).vectors.astype(np.float64)
    rms = np.sqrt(np.mean((block_means(a, size) - block_means(b, size)) ** 2))
    assert np.linalg.norm(u - v) == pytest.approx(rms, abs=1 / 255)


def test_black_and_white_are_at_one():
    u, v = Pixels().encode([Image.new("RGB", (50, 70), c) for c in ("black", "white")]).vectors
    assert np.linalg.norm(u.astype(np.float64) - v) == pytest.approx(1, abs=1e-6)


def test_copies_are_nearer_than_others():
    pictures = [picture(i) for i in range(8)]
    base = Pixels().encode(pictures).vectors
    edited = Pixels().encode([recompressed(image) for image in pictures]).vectors
    between = np.linalg.norm(base[:, None] - edited[None], axis=-1)
    assert np.diag(between).max() < 0.02
    assert between[~np.eye(8, dtype=bool)].min() > 0.1


def test_neighbours_do_not_matter_and_sizes_may_differ():
    pictures = [picture(i, 100 + i, 90 - i) for i in range(5)]
    together = Pixels().encode(pictures).vectors
    alone = np.concatenate([Pixels().encode([image]).vectors for image in pictures])
    assert together.dtype == np.float32
    assert np.array_equal(together, alone)


def test_the_fingerprint_is_the_size():
    assert Pixels(16).fingerprint != Pixels(32).fingerprint
