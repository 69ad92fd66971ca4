"""ReTrack (2025): what leads to the memorized picture is turned to its neighbours.

On x_t = α_t a + σ_t ε of a target a with neighbours r_1..r_k, the noise of a training set that
holds the neighbours in place of a (an empirical Bayes denoiser over them):

    T = Σ_j w_j (x_t - α_t r_j) / σ_t = Σ_j w_j [ ε + (α_t / σ_t)(a - r_j) ]
    w_j ∝ exp( - || x_t - α_t r_j ||² / 2 σ_t² )

Near the picture T grows as 1/σ_t. The error there is weighted by min(1, γ σ_t² / α_t²), which
bounds it by γ times that of x_0 (Hang et al. 2023, min-SNR, γ = 5).
"""

from collections.abc import Sequence

import torch

from pipeline.erasure.latents import GroupedLatents, noise_levels
from pipeline.erasure.sources import Examples, Prompts
from pipeline.erasure.targets import Target
from pipeline.generation.backend import DiffusionModel

_GAMMA = 5.0
_SIGMA_MIN = 1e-3  # a schedule that starts without noise would divide by zero


class Redirected:
    """Forward-noised pictures of the targets, with the noise of their neighbours."""

    def __init__(self, model: DiffusionModel, targets: Sequence[Target], prompts: Prompts) -> None:
        """Encode both; raise InputError where a target lacks them, or of another size."""
        own = "retrack needs its picture; give one"
        near = "no neighbours; give training pictures that are no duplicates of it"
        self._own = GroupedLatents(model, targets, [t.pictures for t in targets], own)
        self._near = GroupedLatents(model, targets, [t.neighbours for t in targets], near)
        self._model, self._prompts = model, prompts

    def draw(self, count: int, generator: torch.Generator) -> Examples:
        """Noise `count` pictures, each to a time step of its own."""
        model = self._model
        groups, captions = self._prompts.draw(count, generator)
        x_0 = self._own.draw(groups, generator)
        timesteps, noise = noise_levels(model, x_0, generator)
        alpha, sigma = model.alpha_sigma(timesteps)
        sigma = sigma.clamp_min(_SIGMA_MIN)
        x_t = alpha * x_0 + sigma * noise
        target = torch.stack(
            [
                redirected_noise(x, self._near.of_group(int(group)), a, s)
                for x, group, a, s in zip(x_t, groups, alpha, sigma, strict=True)
            ]
        )
        weight = (_GAMMA * (sigma / alpha.clamp_min(_SIGMA_MIN)) ** 2).clamp_max(1.0).flatten()
        text = self._prompts.text[captions.to(model.device)]
        return Examples(x_t, timesteps, text, target, weight)


def redirected_noise(
    x_t: torch.Tensor, neighbours: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """T (c, h, w) of x_t (c, h, w), neighbours (k, c, h, w) and scalars α and σ."""
    residual = x_t - alpha * neighbours
    logits = -residual.flatten(1).square().sum(dim=1) / (2 * sigma.squeeze() ** 2)
    weights = logits.softmax(dim=0).view(-1, 1, 1, 1)
    return (weights * residual).sum(dim=0) / sigma
