"""DoRI: optimise text states until they draw the picture (Kowalczuk et al. 2026).

    y ← y - Adam( ∇_y  E_{ε, t}  w_t || ε_θ(α_t x* + σ_t ε, t, y) - ε ||² ),    weights θ fixed,

with fresh ε and t in every iteration. `invert` is the loop alone: the adversarial eraser runs it
too, against which the judge should differ in start, optimiser or budget.
"""

from collections.abc import Sequence

import torch

from pipeline.erasure.attacks.budgets import EmbeddingBudget
from pipeline.erasure.attacks.drawing import draw_from, forwards_of, horizon, noised
from pipeline.erasure.attacks.subject import Attempts, Subject, seed_of
from pipeline.erasure.parameters import trainable
from pipeline.erasure.trajectories import Walk
from pipeline.errors import ConfigError
from pipeline.generation.backend import DiffusionModel

_AT_ONCE = 4  # attempts optimised together
_ALPHA_MIN = 0.03


def attack(
    model: DiffusionModel, subject: Subject, budget: EmbeddingBudget, walk: Walk, *, seed: int
) -> Attempts:
    """Optimise one embedding an attempt, and draw from each."""
    generators = [
        torch.Generator().manual_seed(seed_of(seed, subject, budget.start, number))
        for number in range(budget.attempts)
    ]
    with torch.no_grad():
        latent = model.encode_pictures(subject.picture[None])
        start = torch.cat(
            [
                starting_point(model, subject, budget.start, number, generator)
                for number, generator in enumerate(generators)
            ]
        )
    found = []
    for first in range(0, budget.attempts, _AT_ONCE):
        block = slice(first, first + _AT_ONCE)
        x_0 = latent.expand(len(start[block]), -1, -1, -1)
        found.append(invert(model, x_0, start[block], generators[block], budget))
    seeds = [
        [seed_of(seed, subject, "draw", number, draw) for draw in range(budget.draws)]
        for number in range(budget.attempts)
    ]
    pictures = draw_from(model, torch.cat(found), seeds, walk)
    optimising = 2 * budget.iterations * budget.batch * budget.attempts
    return Attempts(pictures, optimising + forwards_of(walk, budget.attempts * budget.draws))


def starting_point(
    model: DiffusionModel, subject: Subject, start: str, attempt: int, generator: torch.Generator
) -> torch.Tensor:
    """Text states (1, tokens, d) to begin with; "gaussian" has the caption's mean and spread."""
    if start == "other":
        return model.embed_text([subject.other(attempt)])
    states = model.embed_text([subject.caption(attempt)])
    if start == "caption":
        return states
    noise = torch.randn(states.shape, generator=generator).to(states.device)
    return states.mean() + states.std() * noise


def invert(
    model: DiffusionModel,
    x_0: torch.Tensor,
    start: torch.Tensor,
    generators: Sequence[torch.Generator],
    budget: EmbeddingBudget,
) -> torch.Tensor:
    """Optimised states (m, tokens, d) that make the model predict each of x_0 (m, c, h, w).

    `generators` are CPU generators, one of each embedding, which does not depend on the others.
    """
    states = start.detach().clone().requires_grad_()
    optimizer = _optimizer(budget, states)
    with torch.enable_grad(), trainable(model.unet, {}):
        for _ in range(budget.iterations):
            optimizer.zero_grad(set_to_none=True)
            denoising_loss(
                model, x_0, states, generators, budget.batch, budget.weighting
            ).backward()
            if budget.optimizer == "sign" and states.grad is not None:
                states.grad.sign_()
            optimizer.step()
    return states.detach()


def denoising_loss(
    model: DiffusionModel,
    x_0: torch.Tensor,
    states: torch.Tensor,
    generators: Sequence[torch.Generator],
    batch: int,
    weighting: str,
) -> torch.Tensor:
    """The sum over pictures of the mean denoising error at `batch` random levels each."""
    shape = x_0.shape[1:]
    timesteps = torch.cat(
        [torch.randint(horizon(model), (batch,), generator=own) for own in generators]
    ).to(model.device)
    noise = torch.cat([torch.randn((batch, *shape), generator=own) for own in generators])
    noise = noise.to(model.device)
    x_t = noised(model, x_0.repeat_interleave(batch, dim=0), timesteps, noise)
    error = model.predict_noise(x_t, timesteps, states.repeat_interleave(batch, dim=0)) - noise
    if weighting == "velocity":
        alpha, _ = model.alpha_sigma(timesteps)
        error = error / alpha.clamp_min(_ALPHA_MIN)
    return error.square().mean() * len(x_0)


def _optimizer(budget: EmbeddingBudget, states: torch.Tensor) -> torch.optim.Optimizer:
    rate = budget.learning_rate
    match budget.optimizer:
        case "adam":
            return torch.optim.Adam([states], lr=rate)
        case "adamw":
            return torch.optim.AdamW([states], lr=rate)
        case "sgd":
            return torch.optim.SGD([states], lr=rate, momentum=0.9)
        case "sign":  # signed gradient descent, as AdvUnlearn's inner loop
            return torch.optim.SGD([states], lr=rate)
        case other:
            raise ConfigError(f"optimizer {other!r}: one of adam, adamw, sgd, sign")
