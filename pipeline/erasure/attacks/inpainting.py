"""Inpainting: half of the picture is given, the other half drawn.

At every step the given half of x_t is replaced by the picture noised to that level, so that the
model only fills in (the replacement method of Song et al. 2021, section 5, without resampling):

    x_t ← m (α_t x* + σ_t ε_t) + (1 - m) x_t,    m = 1 on the given half

Only the hidden half is judged.
"""

import numpy as np
import torch

from pipeline.erasure.attacks.budgets import InpaintingBudget
from pipeline.erasure.attacks.drawing import decode_latents, forwards_of, horizon, noised, sample
from pipeline.erasure.attacks.subject import Attempts, Box, Subject, seed_of
from pipeline.erasure.trajectories import Walk
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.seeds import gaussian

_HIDDEN: dict[str, Box] = {
    "left": (0.0, 0.0, 1.0, 0.5),
    "right": (0.0, 0.5, 1.0, 1.0),
    "top": (0.0, 0.0, 0.5, 1.0),
    "bottom": (0.5, 0.0, 1.0, 1.0),
}


@torch.no_grad()
def attack(
    model: DiffusionModel, subject: Subject, budget: InpaintingBudget, walk: Walk, *, seed: int
) -> Attempts:
    """Fill in the hidden half anew for every drawing."""
    x_0 = model.encode_pictures(subject.picture[None])
    box = _HIDDEN[budget.hidden]
    given = ~_inside(box, x_0.shape[2], x_0.shape[3]).to(model.device)
    attempts = []
    for number in range(budget.attempts):
        seeds = [seed_of(seed, subject, "noise", number, draw) for draw in range(budget.draws)]
        noise = gaussian(model.latent_shape, seeds).to(model.device)
        own = torch.Generator().manual_seed(seed_of(seed, subject, "given", number))

        def give(
            x_t: torch.Tensor, timesteps: torch.Tensor, own: torch.Generator = own
        ) -> torch.Tensor:
            fresh = torch.randn(x_t.shape, generator=own).to(x_t.device)
            return torch.where(given, noised(model, x_0, timesteps, fresh), x_t)

        caption = subject.caption(number) if budget.prompt == "caption" else ""
        text = model.embed_text([caption]).expand(budget.draws, -1, -1)
        filled = sample(model, noise, text, walk, start=horizon(model) - 1, steer=give)
        attempts.append(decode_latents(model, torch.where(given, x_0, filled)))
    return Attempts(np.stack(attempts), forwards_of(walk, budget.attempts * budget.draws), box)


def _inside(box: Box, height: int, width: int) -> torch.Tensor:
    top, left, bottom, right = box
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    rows = slice(round(top * height), round(bottom * height))
    mask[..., rows, round(left * width) : round(right * width)] = True
    return mask
