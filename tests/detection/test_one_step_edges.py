import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pipeline.detection.errors import MeasureError
from pipeline.detection.one_step_edges import edge_maps, edge_score


def edges_by_hand(picture):
    """Sobel's sums written out, over channels too, with the last value at each end twice."""
    height, width, channels = picture.shape
    found = np.zeros((height, width), bool)
    flat = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)
    across_kernel, down_kernel = (k[:, :, None] * [1, 2, 1] for k in (flat, flat.T))
    padded = np.pad(picture.astype(np.float64), 1, mode="symmetric")
    for y, x in np.ndindex(height, width):
        total = 0.0
        for c in range(channels):
            window = padded[y : y + 3, x : x + 3, c : c + 3]
            across, down = (window * across_kernel).sum(), (window * down_kernel).sum()
            total += np.sqrt(across**2 + down**2)
        found[y, x] = total > 1.5
    return found


def random_pictures(n, side=12, seed=0):
    rng = np.random.default_rng(seed)
    return (0.5 + 0.03 * rng.standard_normal((n, side, side, 3))).clip(0, 1).astype(np.float32)


def test_edges_against_the_sums_written_out():
    for picture in random_pictures(3):
        found = edge_maps(picture[None])[0]
        assert np.array_equal(found, edges_by_hand(picture))
        assert 0.05 < found.mean() < 0.95


def test_a_picture_alone_is_what_scipy_gives():
    picture = random_pictures(1)[0].astype(np.float64)
    gradient = np.hypot(ndimage.sobel(picture, axis=0), ndimage.sobel(picture, axis=1))
    assert np.array_equal(edge_maps(picture[None].astype(np.float32))[0], gradient.sum(2) > 1.5)


def test_the_score_is_the_share_of_pixels_that_most_pictures_agree_on():
    pictures = random_pictures(4)
    maps = np.stack([edges_by_hand(picture) for picture in pictures])
    votes = maps.sum(axis=0)
    assert edge_score(pictures) == (votes >= 3).mean()  # two of four are no majority
    assert 0 < edge_score(pictures) < maps.mean()


def test_a_replayed_picture_scores_and_different_ones_do_not():
    square = np.zeros((32, 32, 3), np.uint8)
    square[8:24, 8:24] = 255
    replayed = edge_score(np.stack([square] * 4))
    shifted = edge_score(np.stack([np.roll(square, shift, 1) for shift in (0, 4, 8, 12)]))
    assert replayed > 2 * shifted
    assert edge_score(np.full((4, 32, 32, 3), 128, np.uint8)) == 0


def test_large_pictures_are_brought_to_256():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (4, 40, 40, 3), np.uint8)
    large = np.stack(
        [np.asarray(Image.fromarray(x).resize((512, 512), Image.Resampling.NEAREST)) for x in small]
    )
    at_256 = np.stack(
        [np.asarray(Image.fromarray(x).resize((256, 256), Image.Resampling.LANCZOS)) for x in large]
    )
    assert edge_score(large) == edge_score(at_256)
    assert edge_score(large) != edge_score(large.astype(np.float32) / 255)


def test_refuses():
    with pytest.raises(MeasureError, match="pictures"):
        edge_score(np.zeros((4, 8, 8), np.uint8))
