"""Completion: the picture, forward-noised, is denoised again.

    x_t = α_t x* + σ_t ε  at t = start · T,    then sampled down to x_0

At a low start every model gives the picture back; what counts is the difference to a model, or to
pictures, that have nothing to remember.
"""

import numpy as np
import torch

from pipeline.erasure.attacks.budgets import CompletionBudget
from pipeline.erasure.attacks.drawing import (
    decode_latents,
    forwards_of,
    noised,
    sample,
    timestep_at,
)
from pipeline.erasure.attacks.subject import Attempts, Subject, seed_of
from pipeline.erasure.trajectories import Walk
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.seeds import gaussian


@torch.no_grad()
def attack(
    model: DiffusionModel, subject: Subject, budget: CompletionBudget, walk: Walk, *, seed: int
) -> Attempts:
    """Noise the picture anew for every drawing, and denoise it."""
    x_0 = model.encode_pictures(subject.picture[None])
    start = timestep_at(model, budget.start)
    attempts = []
    for number in range(budget.attempts):
        seeds = [seed_of(seed, subject, "noise", number, draw) for draw in range(budget.draws)]
        noise = gaussian(model.latent_shape, seeds).to(model.device)
        timesteps = torch.full((budget.draws,), start, device=model.device)
        x_t = noised(model, x_0.expand_as(noise), timesteps, noise)
        caption = subject.caption(number) if budget.prompt == "caption" else ""
        text = model.embed_text([caption]).expand(budget.draws, -1, -1)
        attempts.append(decode_latents(model, sample(model, x_t, text, walk, start=start)))
    return Attempts(np.stack(attempts), forwards_of(walk, budget.attempts * budget.draws))
