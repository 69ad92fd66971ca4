"""The measure of truth, against SSIM computed window by window in float64."""

import numpy as np
import pytest
from shard_builder import picture

from pipeline.io.images import to_square
from pipeline.stages.truth import similarities


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004 with a 11 x 11 Gaussian window of 1.5, mirrored borders."""
    a, b = a.astype(np.float64) / 255, b.astype(np.float64) / 255
    x = np.arange(-5, 6)
    kernel = np.exp(-(x**2) / (2 * 1.5**2))
    window = np.outer(kernel, kernel) / kernel.sum() ** 2
    pad = [(5, 5), (5, 5), (0, 0)]
    a, b = np.pad(a, pad, mode="reflect"), np.pad(b, pad, mode="reflect")
    values = []
    for channel in range(3):
        for i in range(a.shape[0] - 10):
            for j in range(a.shape[1] - 10):
                u = a[i : i + 11, j : j + 11, channel]
                v = b[i : i + 11, j : j + 11, channel]
                mu, nu = (window * u).sum(), (window * v).sum()
                var_u = (window * u * u).sum() - mu**2
                var_v = (window * v * v).sum() - nu**2
                cov = (window * u * v).sum() - mu * nu
                c1, c2 = 0.01**2, 0.03**2
                values.append(
                    (2 * mu * nu + c1)
                    * (2 * cov + c2)
                    / ((mu**2 + nu**2 + c1) * (var_u + var_v + c2))
                )
    return float(np.mean(values))


def test_similarities_agree_with_the_definition():
    originals = np.stack([to_square(picture(i), 24) for i in range(6)])
    noise = np.random.default_rng(0).integers(-20, 20, originals[2].shape)
    drawn = np.clip(originals[2].astype(int) + noise, 0, 255).astype(np.uint8)
    own, other = similarities(drawn, originals, 2)
    assert own == pytest.approx(_ssim(drawn, originals[2]), abs=1e-4)
    expected = max(_ssim(drawn, originals[i]) for i in range(6) if i != 2)
    assert other == pytest.approx(expected, abs=1e-4)


def test_the_own_picture_is_not_among_the_others():
    originals = np.stack([to_square(picture(i), 24) for i in range(4)])
    own, other = similarities(originals[1], originals, 1)
    assert own == pytest.approx(1.0) and other < 0.9
