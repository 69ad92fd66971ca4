"""The denoising loss of given pictures at given noise levels.

    L(x_0, c, t) = mean over elements of (ε_θ(α_t x_0 + σ_t ε, t, c) - ε)²

with the noise ε of a seed, so that two models are compared on one noisy picture. The error is that
of the noise, whatever the network predicts: at one t the errors of v and x_0 are multiples of it
(1/α² and σ²/α², of a flow's velocity 1/α²), and a ratio of losses at one t is the same in all. Only
such ratios should be formed; over levels they are averaged as ratios.
"""

from collections.abc import Sequence

import torch

from pipeline.errors import ModelError
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.seeds import gaussian


def midpoints(horizon: int, levels: int) -> list[int]:
    """The middle time steps of `levels` equal stretches of 0..horizon - 1, without repetition."""
    return sorted({(2 * level + 1) * horizon // (2 * levels) for level in range(levels)})


@torch.no_grad()
def denoising_loss(
    model: DiffusionModel,
    x_0: torch.Tensor,
    captions: Sequence[str],
    timesteps: torch.Tensor,
    seeds: Sequence[int],
) -> list[float]:
    """L of x_0 (n, c, h, w) under n captions at integer timesteps (n,), with n seeds of the noise.

    Raises ModelError for an architecture without noise prediction, and where a prediction is not
    finite.
    """
    noise = gaussian(tuple(x_0.shape[1:]), seeds).to(x_0.device, x_0.dtype)
    timesteps = timesteps.to(x_0.device)
    alpha, sigma = (value.to(x_0.dtype) for value in model.alpha_sigma(timesteps))
    x_t = alpha * x_0 + sigma * noise
    predicted = model.predict_noise(x_t, timesteps, model.conditions(captions))
    errors = (predicted.float() - noise.float()).square().flatten(1).mean(dim=1)
    if not torch.isfinite(errors).all():
        raise ModelError(
            "the model's predictions are not finite; if its weights are sound, use a wider "
            "model.dtype"
        )
    return list(errors.tolist())
