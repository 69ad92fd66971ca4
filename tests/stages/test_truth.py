"""The measure of truth, against SSIM computed window by window in float64."""

import numpy as np
import pytest
from shard_builder import picture

from pipeline.io.images import to_square
from pipeline.stages.truth import reproduced, similarities


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
    found = similarities(drawn, originals, 2)
    assert found == pytest.approx({i: _ssim(drawn, originals[i]) for i in range(6)}, abs=1e-4)


def test_the_own_picture_is_compared_however_far_it_is():
    originals = np.stack([to_square(picture(i), 24) for i in range(40)])
    ranked = np.argsort(np.square(originals.astype(float) - originals[0]).mean(axis=(1, 2, 3)))
    farthest = int(ranked[-1])
    found = similarities(originals[0], originals, farthest)
    assert farthest in found and len(found) < 40
    assert reproduced(found) == 0


@pytest.mark.parametrize(
    ("similarity", "expected"),
    [
        ({3: 0.9, 5: 0.5, 8: 0.1}, 3),
        ({3: 0.5, 5: 0.9}, 5),
        ({3: 0.59, 5: 0.1}, None),  # not near
        ({3: 0.9, 5: 0.86}, None),  # near, but so is another: 0.1 is not below 0.7 * 0.14
        ({3: 0.9, 5: 0.85}, 3),
        ({3: 0.9, 5: 0.9}, None),
    ],
)
def test_a_picture_is_reproduced_where_it_is_near_and_stands_out(similarity, expected):
    assert reproduced(similarity) == expected
