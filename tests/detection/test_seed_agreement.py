from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from pipeline.detection.errors import MeasureError
from pipeline.detection.seed_agreement import layout, seed_agreement


def window(size, sigma):
    line = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    square = np.outer(line, line)
    return square / square.sum()


def ms_ssim(a, b, scales, size):
    """Wang et al. 2003 in float64 on (c, h, w) in [0, 1]; c1 and c2 as usual.

    As torchmetrics has it, luminance is seen to the mirrored border, and contrast is not.
    """
    kernel, value = window(size, 1.5 * size / 11), 1.0
    for scale in range(scales):
        last = scale == scales - 1
        found = []
        border = (size // 2 if last else 0,)
        for pair in zip(a, b, strict=True):
            x, y = (np.pad(v, border, mode="reflect") for v in pair)
            mx, my = convolve2d(x, kernel, "valid"), convolve2d(y, kernel, "valid")
            xx = convolve2d(x * x, kernel, "valid") - mx**2
            yy = convolve2d(y * y, kernel, "valid") - my**2
            xy = convolve2d(x * y, kernel, "valid") - mx * my
            structure = (2 * xy + 0.03**2) / (xx + yy + 0.03**2)
            luminance = (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
            found.append(structure * luminance if last else structure)
        value *= max(np.mean(found), 0) ** (0.99 / scales)
        a, b = (
            x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).mean(axis=(2, 4))
            for x in (a, b)
        )
    return value


def unit_range(residual):
    low = residual.min(axis=(1, 2), keepdims=True)
    return (residual - low) / (residual.max(axis=(1, 2), keepdims=True) - low)


def residuals(side, seeds=4, common=0.6, channels=3):
    rng = np.random.default_rng(side)
    shared = rng.standard_normal((channels, side, side))
    own = rng.standard_normal((seeds, channels, side, side))
    return common * shared + (1 - common) * own


@pytest.mark.parametrize(
    ("side", "scales", "size"), [(64, 3, 11), (32, 3, 7), (16, 2, 7), (8, 1, 7)]
)
def test_against_float64_arithmetic(side, scales, size):
    assert layout(side) == (scales, size)
    found = residuals(side)
    units = [unit_range(residual) for residual in found]
    expected = max(ms_ssim(a, b, scales, size) for a, b in combinations(units, 2))
    assert seed_agreement(torch.from_numpy(found).float()) == pytest.approx(expected, abs=2e-4)
    assert 0.1 < expected < 0.99


@pytest.mark.parametrize("side", range(4, 130))
def test_every_size_has_a_window_that_fits(side):
    scales, size = layout(side)
    coarsest = side >> (scales - 1)
    assert 1 <= scales <= 3 and size % 2 == 1 and 1 < size < coarsest
    assert size == 11 or size >= coarsest - 2
    value = seed_agreement(torch.from_numpy(residuals(side, 2, channels=1)).float())
    assert 0 <= value <= 1


def test_seeds_that_agree_score_higher_than_those_that_do_not():
    scores = [
        seed_agreement(torch.from_numpy(residuals(32, common=common)).float())
        for common in (0.0, 0.4, 0.8)
    ]
    assert scores == sorted(scores) and scores[2] > scores[0] + 0.3


def test_it_is_one_pair_that_counts():
    found = torch.from_numpy(residuals(16, common=0.0)).float()
    found[3] = found[0]
    assert seed_agreement(found) == pytest.approx(1.0, abs=1e-5)


def test_refuses():
    with pytest.raises(MeasureError, match="two seeds"):
        seed_agreement(torch.zeros(1, 4, 8, 8))
    with pytest.raises(MeasureError, match="two seeds"):
        seed_agreement(torch.zeros(2, 4, 3, 8))
    with pytest.raises(MeasureError, match="finite"):
        seed_agreement(torch.full((2, 4, 8, 8), torch.nan))
