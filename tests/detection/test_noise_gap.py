import numpy as np
import pytest
import torch

from pipeline.detection.errors import MeasureError
from pipeline.detection.noise_gap import (
    Gram,
    gap_norm,
    gram,
    webster_score,
)

SHAPE = (3, 4, 8, 6)


def predictions(scale=0.3, seed=0):
    rng = np.random.default_rng(seed)
    uncond = rng.standard_normal(SHAPE).astype(np.float32)
    text = (uncond + scale * rng.standard_normal(SHAPE)).astype(np.float32)
    return uncond, text


def scalars_of(uncond, text):
    return gram(torch.from_numpy(uncond), torch.from_numpy(text))


@pytest.mark.parametrize("guidance", [1.0, 3.0, 7.5])
def test_scores_equal_those_of_the_tensors(guidance):
    uncond, text = predictions()
    u, c = uncond.astype(np.float64), text.astype(np.float64)
    delta = c - u
    scalars = scalars_of(uncond, text)
    norm = np.sqrt((delta**2).sum(axis=(1, 2, 3)))
    assert np.allclose(gap_norm(scalars), norm, rtol=1e-12)
    guided = ((u + guidance * delta) ** 2).mean(axis=(1, 2, 3))
    assert np.allclose(webster_score(scalars, guidance=guidance), guided, rtol=1e-12)
    assert scalars.dim.tolist() == [192] * 3


def test_cosine_equals_loop_over_positions():
    uncond, text = predictions()
    expected = []
    for u, c in zip(uncond.astype(np.float64), text.astype(np.float64), strict=True):
        cosines = []
        for y, x in np.ndindex(8, 6):
            v, d = u[:, y, x], c[:, y, x] - u[:, y, x]
            cosines.append(v @ d / np.sqrt((v @ v) * (d @ d)))
        expected.append(np.mean(cosines))
    assert np.allclose(scalars_of(uncond, text).cos_channel_mean, expected, rtol=0, atol=1e-12)


def test_text_parallel_to_unconditional():
    uncond = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    away, toward = gram(uncond, 1.5 * uncond), gram(uncond, 0.5 * uncond)
    assert np.allclose(away.cos_channel_mean, 1) and np.allclose(toward.cos_channel_mean, -1)
    # u + g (c - u) = (1 + g / 2) u
    assert np.allclose(webster_score(away, guidance=2), 4 * away.eps_uncond_sq / away.dim)


@pytest.mark.parametrize("scale", [1e-2, 1e-4])
def test_small_gaps_survive_the_difference_of_large_squares(scale):
    uncond, text = predictions(scale)
    exact = np.linalg.norm((text.astype(np.float64) - uncond).reshape(3, -1), axis=1)
    assert np.allclose(gap_norm(scalars_of(uncond, text)), exact, rtol=1e-6)


def test_equal_predictions_have_no_gap():
    uncond, _ = predictions()
    scalars = scalars_of(uncond, uncond)
    assert not gap_norm(scalars).any() and not scalars.cos_channel_mean.any()


def test_half_precision_is_not_summed_in_half_precision():
    half = torch.full((1, 4, 64, 64), 10.0, dtype=torch.float16)
    scalars = gram(half, 2 * half)
    assert scalars.eps_uncond_sq[0] == 100 * 16384
    assert gap_norm(scalars)[0] == 10 * 128


def test_gram_refuses():
    ones = torch.ones(1, 4, 8, 8)
    with pytest.raises(MeasureError, match="two tensors"):
        gram(ones, torch.ones(2, 4, 8, 8))
    with pytest.raises(MeasureError, match="two tensors"):
        gram(ones[0], ones[0])
    with pytest.raises(MeasureError, match="finite"):
        gram(ones, ones * float("nan"))
    column = np.ones(2)
    with pytest.raises(MeasureError, match="one length"):
        Gram(np.ones(3, np.int64), column, column, column, column)
