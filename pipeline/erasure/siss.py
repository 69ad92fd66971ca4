"""SISS (Alberti et al. 2025): subtracted importance-sampled scores.

One noisy latent serves for keeping x and forgetting a: it comes from the mixture

    q_λ = (1 - λ) q(· | x) + λ q(· | a),    q(m | y) = N(m; α_t y, σ_t² I)

and each loss is weighted by its density ratio, computed in the logarithm:

    w_x = q(m | x) / q_λ(m) = 1 / ((1 - λ) + λ exp(d_x - d_a)),    d_y = || m - α_t y ||² / 2 σ_t²
    w_a = q(m | a) / q_λ(m) = 1 / ((1 - λ) exp(d_a - d_x) + λ)
    g = ∇ E w_x || ε_θ - ε_x ||²  -  s ∇ E w_a || ε_θ - ε_a ||²,    ε_y = (m - α_t y) / σ_t

s sets the norm of the second term to a fixed share of the first's, whatever its own (it is scaled,
not clipped; the authors' rule is a tenth); then g is clipped to a norm of 1.
"""

from collections.abc import Mapping, Sequence
from math import log

import torch

from pipeline.erasure.ablate import NO_ANCHORS
from pipeline.erasure.latents import GroupedLatents, noise_levels
from pipeline.erasure.objective import level_weight
from pipeline.erasure.options import SissOptions
from pipeline.erasure.sources import Prompts
from pipeline.erasure.targets import Target
from pipeline.generation.backend import DiffusionModel

_SIGMA_MIN = 1e-3


class Siss:
    """Keeps the anchors of each target under its captions, and forgets its pictures."""

    def __init__(
        self,
        model: DiffusionModel,
        trained: Mapping[str, torch.nn.Parameter],
        targets: Sequence[Target],
        prompts: Prompts,
        options: SissOptions,
        weighting: str,
    ) -> None:
        """Encode both; raise InputError where a target lacks them, or of another size."""
        own = "siss needs its picture; give one"
        self._forget = GroupedLatents(model, targets, [t.pictures for t in targets], own)
        self._keep = GroupedLatents(model, targets, [t.anchors for t in targets], NO_ANCHORS)
        self._model, self._prompts, self._options = model, prompts, options
        self._trained, self._weighting = list(trained.values()), weighting

    def accumulate(self, count: int, generator: torch.Generator) -> float:
        """Add g; return the loss of keeping."""
        model, mixture = self._model, self._options.mixture
        groups, captions = self._prompts.draw(count, generator)
        kept = self._keep.draw(groups, generator)
        forgotten = self._forget.draw(groups, generator)
        is_forgotten = (torch.rand(count, generator=generator) < mixture).to(model.device)
        x_0 = torch.where(is_forgotten.view(-1, 1, 1, 1), forgotten, kept)
        timesteps, noise = noise_levels(model, x_0, generator)
        alpha, sigma = model.alpha_sigma(timesteps)
        sigma = sigma.clamp_min(_SIGMA_MIN)
        mixed = alpha * x_0 + sigma * noise
        noise_x, noise_a = (mixed - alpha * kept) / sigma, (mixed - alpha * forgotten) / sigma
        weight_x, weight_a = mixture_weights(noise_x, noise_a, mixture)
        text = self._prompts.text[captions.to(model.device)]
        predicted = model.predict_noise(mixed, timesteps, text)
        level = level_weight(model, timesteps, self._weighting)
        keeping, forgetting = (
            (level * weight.view(-1, 1, 1, 1) * (predicted - wanted).square()).mean()
            for weight, wanted in ((weight_x, noise_x), (weight_a, noise_a))
        )
        gradient = two_term_gradient(
            torch.autograd.grad(keeping, self._trained, retain_graph=True, allow_unused=True),
            torch.autograd.grad(forgetting, self._trained, allow_unused=True),
            self._options,
        )
        for parameter, own in zip(self._trained, gradient, strict=True):
            if own is not None:
                laid_out = own.contiguous()  # as parameters are; autograd.grad may differ
                parameter.grad = laid_out if parameter.grad is None else parameter.grad + laid_out
        return float(keeping.detach())


def mixture_weights(
    noise_x: torch.Tensor, noise_a: torch.Tensor, mixture: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """w_x and w_a, each (n,), of ε_x and ε_a (n, c, h, w), for d_y = ||ε_y||² / 2."""
    gap = (noise_x.flatten(1).square().sum(dim=1) - noise_a.flatten(1).square().sum(dim=1)) / 2
    keep, forget = torch.full_like(gap, log(1 - mixture)), torch.full_like(gap, log(mixture))
    weight_x = torch.exp(-torch.logaddexp(keep, forget + gap))
    weight_a = torch.exp(-torch.logaddexp(keep - gap, forget))
    return weight_x, weight_a


def two_term_gradient(
    keeping: Sequence[torch.Tensor | None],
    forgetting: Sequence[torch.Tensor | None],
    options: SissOptions,
) -> list[torch.Tensor | None]:
    """g = keeping - s forgetting, clipped; None where neither has a gradient."""
    norm_keep, norm_forget = _norm(keeping), _norm(forgetting)
    scale = options.forget_ratio * norm_keep / norm_forget if norm_forget > 0 else 0.0
    total = [_minus(k, f, scale) for k, f in zip(keeping, forgetting, strict=True)]
    shrink = min(1.0, options.clip / max(_norm(total), 1e-12))
    return [None if part is None else part * shrink for part in total]


def _minus(
    keep: torch.Tensor | None, forget: torch.Tensor | None, scale: float
) -> torch.Tensor | None:
    if forget is None:
        return keep
    return -scale * forget if keep is None else keep - scale * forget


def _norm(parts: Sequence[torch.Tensor | None]) -> float:
    norms = [part.norm() for part in parts if part is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
