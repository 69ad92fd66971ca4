import numpy as np
import pytest

from pipeline.detection.bright_ending import masked_noise_gap
from pipeline.detection.errors import MeasureError


def test_against_the_sums_written_out():
    rng = np.random.default_rng(0)
    gaps, mask = rng.standard_normal((5, 2, 4, 6, 3)), rng.random((2, 6, 3))
    expected = []
    for row in range(2):
        norms = []
        for step in range(5):
            total = sum(
                (gaps[step, row, c, y, x] * mask[row, y, x]) ** 2 for c, y, x in np.ndindex(4, 6, 3)
            )
            norms.append(np.sqrt(total))
        expected.append(np.mean(norms) / np.mean(mask[row]))
    found = masked_noise_gap((gaps**2).sum(axis=2), mask)
    assert np.allclose(found, expected, rtol=1e-12)
    assert np.allclose(masked_noise_gap((gaps**2).sum(axis=2), 7 * mask), found)  # scale of m


def test_an_even_mask_gives_the_gap_itself():
    squares = np.random.default_rng(0).random((3, 2, 4, 4))
    whole = np.sqrt(squares.sum(axis=(2, 3))).mean(axis=0)
    assert np.allclose(masked_noise_gap(squares, np.full((2, 4, 4), 0.1)), whole)


def test_a_gap_under_the_mask_counts_more():
    squares, mask = np.zeros((1, 2, 8, 8)), np.full((2, 8, 8), 0.1)
    mask[:, :2, :2] = 1
    squares[0, 0, 0, 0] = squares[0, 1, 7, 7] = 1
    under, beside = masked_noise_gap(squares, mask)
    assert under == pytest.approx(10 * beside)


def test_refuses():
    squares, mask = np.ones((3, 2, 4, 4)), np.ones((2, 4, 4))
    with pytest.raises(MeasureError, match="fit"):
        masked_noise_gap(squares, mask[:1])
    with pytest.raises(MeasureError, match="fit"):
        masked_noise_gap(squares[:0], mask)
    with pytest.raises(MeasureError, match="finite"):
        masked_noise_gap(squares * np.nan, mask)
    with pytest.raises(MeasureError, match="weight"):
        masked_noise_gap(squares, 0 * mask)
