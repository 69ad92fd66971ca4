import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.detection.errors import MeasureError
from pipeline.detection.l2 import l2
from pipeline.detection.tiled_l2 import pairwise_tiled_l2, tiled_l2


def by_pixel(a, b):
    """Each pixel is put into its tile by counting, in float64; a side of 10 is cut 3 3 2 2."""

    def tile_of(index, side):
        long, size = side % 4, side // 4
        border = long * (size + 1)
        return index // (size + 1) if index < border else long + (index - border) // size

    sums, counts = np.zeros((4, 4)), np.zeros((4, 4))
    height, width = a.shape[:2]
    for y in range(height):
        for x in range(width):
            tile = tile_of(y, height), tile_of(x, width)
            sums[tile] += float(((a[y, x].astype(np.float64) - b[y, x]) ** 2).sum())
            counts[tile] += 3
    return np.sqrt((sums / counts).max())


def test_only_the_worst_tile_counts():
    a = np.zeros((1, 16, 16, 3), np.float32)
    b = a.copy()
    b[0, 4:8, 12:16] = 0.5
    b[0, 0:4, 0:4] = 0.25
    assert tiled_l2(a, b)[0] == 0.5
    assert l2(a, b)[0] == pytest.approx(((0.25 + 0.0625) / 16) ** 0.5)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (10, 9), (16, 32), (11, 6)])
def test_equals_loop_over_pixels(size):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 3, *size, 3), np.uint8)
    expected = np.array([[by_pixel(x / 255, y / 255) for y in b] for x in a])
    assert np.allclose(pairwise_tiled_l2(a, b), expected, rtol=0, atol=1e-12)
    assert np.allclose(tiled_l2(a, b), np.diag(expected), rtol=0, atol=1e-12)
    as_float = [(x / 255).astype(np.float32) for x in (a, b)]
    assert np.allclose(pairwise_tiled_l2(*as_float), expected, rtol=0, atol=1e-6)


@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(8), st.just(6), st.just(3))))
@settings(max_examples=50, deadline=None)
def test_properties(a):
    own = pairwise_tiled_l2(a)
    assert np.array_equal(own, own.T) and not np.diag(own).any()
    assert np.array_equal(own, pairwise_tiled_l2(a, a))
    assert np.array_equal(pairwise_tiled_l2(a[::-1]), own[::-1, ::-1])
    for i, j in np.ndindex(own.shape):
        assert l2(a[i : i + 1], a[j : j + 1])[0] <= own[i, j] + 1e-12


def test_refuses_pictures_below_four_pixels():
    small = np.zeros((1, 3, 8, 3), np.uint8)
    with pytest.raises(MeasureError, match="3 pixels"):
        pairwise_tiled_l2(small)
