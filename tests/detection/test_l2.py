import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.detection.errors import MeasureError
from pipeline.detection.l2 import l2, pairwise_l2

PICTURES = arrays(np.uint8, st.tuples(st.integers(1, 5), st.just(6), st.just(5), st.just(3)))


def rms(a, b):
    """One pair, a Python loop over float64 values in [0, 1]."""
    total = 0.0
    for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
        total += (x - y) ** 2
    return (total / a.size) ** 0.5


def test_closed_form():
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)
    grey = np.full((1, 8, 8, 3), 51, np.uint8)
    assert l2(black, white)[0] == 1.0
    assert l2(black, grey)[0] == pytest.approx(0.2, abs=1e-15)
    half = black.copy()
    half[:, :4] = 255
    assert l2(black, half)[0] == pytest.approx(0.5**0.5, abs=1e-15)


@given(PICTURES)
@settings(max_examples=50, deadline=None)
def test_uint8_equals_loop_over_float64(a):
    b = np.roll(a, 1, axis=1)
    unit_a, unit_b = a / 255, b / 255
    expected = [[rms(x, y) for y in unit_b] for x in unit_a]
    assert np.allclose(pairwise_l2(a, b), expected, rtol=0, atol=1e-12)
    assert np.allclose(l2(a, b), np.diag(expected), rtol=0, atol=1e-12)


def test_float32_equals_loop_over_float64():
    a, b = np.random.default_rng(0).random((2, 3, 9, 7, 3), np.float32)
    expected = [[rms(x, y) for y in b] for x in a]
    assert np.allclose(pairwise_l2(a, b), expected, rtol=0, atol=1e-12)
    assert np.allclose(l2(a, b), np.diag(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gap", [0.03, 1e-3, 1e-5])
def test_near_pictures_do_not_cancel(gap):
    rng = np.random.default_rng(1)
    a = (0.9 + 0.05 * rng.random((4, 128, 128, 3))).astype(np.float32)
    b = (a + gap * rng.choice([-1, 1], a.shape)).astype(np.float32)
    exact = np.sqrt(np.mean((a.astype(np.float64) - b) ** 2, axis=(1, 2, 3)))
    assert np.allclose(np.diag(pairwise_l2(a, b)), exact, rtol=0, atol=1e-9)
    # The trap: the same Gram matrix in float32 is wrong by more than the last digit kept.
    flat_a, flat_b = a.reshape(4, -1), b.reshape(4, -1)
    squares = (flat_a**2).sum(1) + (flat_b**2).sum(1) - 2 * np.diag(flat_a @ flat_b.T)
    naive = np.sqrt(np.abs(squares) / flat_a.shape[1])
    assert np.abs(naive - exact).max() > 1e-6


def test_rows_and_blocks_do_not_change_a_bit(monkeypatch):
    a = np.random.default_rng(2).integers(0, 256, (40, 16, 16, 3), np.uint8)
    whole = pairwise_l2(a)
    order = np.random.default_rng(3).permutation(len(a))
    assert np.array_equal(pairwise_l2(a[order]), whole[np.ix_(order, order)])
    assert np.array_equal(whole, whole.T) and not np.diag(whole).any()
    monkeypatch.setattr("pipeline.detection.l2._ROWS", 7)
    monkeypatch.setattr("pipeline.detection.l2._COLUMNS", 100)
    assert np.array_equal(pairwise_l2(a), whole)
    assert np.array_equal(pairwise_l2(a, a[::-1]), whole[:, ::-1])
    assert np.array_equal(l2(a, a[::-1]), np.diag(whole[:, ::-1]))


def test_float_against_itself_is_symmetric_with_zero_diagonal():
    a = np.random.default_rng(4).random((6, 8, 8, 3), np.float32)
    distances = pairwise_l2(a)
    assert np.array_equal(distances, distances.T) and not np.diag(distances).any()


@given(PICTURES)
@settings(max_examples=30, deadline=None)
def test_triangle_inequality(a):
    d = pairwise_l2(a)
    assert (d[:, :, None] <= d[:, None, :] + d[None].transpose(0, 2, 1) + 1e-12).all()


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8), "paired"),
        (np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 9, 3), np.uint8), "sizes differ"),
        (np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.float32), "dtypes differ"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), "shape"),
        (np.zeros((1, 8, 8, 4), np.uint8), np.zeros((1, 8, 8, 4), np.uint8), "shape"),
        (np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 3)), "uint8 or float32"),
        (np.full((1, 8, 8, 3), 2, np.float32), np.zeros((1, 8, 8, 3), np.float32), "255"),
        (np.full((1, 8, 8, 3), np.nan, np.float32), np.zeros((1, 8, 8, 3), np.float32), "finite"),
    ],
)
def test_refuses(a, b, message):
    with pytest.raises(MeasureError, match=message):
        l2(a, b)


def test_no_pictures():
    none = np.zeros((0, 8, 8, 3), np.uint8)
    assert l2(none, none).shape == (0,)
    assert pairwise_l2(none).shape == (0, 0)
    assert pairwise_l2(none, np.zeros((2, 8, 8, 3), np.uint8)).shape == (0, 2)
