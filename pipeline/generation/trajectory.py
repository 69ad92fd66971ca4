"""The first steps of a sampling trajectory, with both noise predictions of each step.

    ε_cfg = ε(x_t, ∅) + g (ε(x_t, c) - ε(x_t, ∅))        (Ho and Salimans 2022)

The scheduler is stepped with the guided raw output, as the pipeline itself does.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pipeline.generation.backend import DiffusionModel


@dataclass(frozen=True)
class ScoredStep:
    """One step of n trajectories; both predictions are (n, c, h, w) at integer `timestep`."""

    timestep: int
    eps_uncond: torch.Tensor
    eps_text: torch.Tensor


@torch.inference_mode()
def first_steps(
    model: DiffusionModel,
    text: torch.Tensor,
    uncond: torch.Tensor,
    x_t: torch.Tensor,
    *,
    num_inference_steps: int,
    guidance: float,
    steps: int,
) -> Iterator[ScoredStep]:
    """Yield the first `steps` steps from x_T (n, c, h, w); text and uncond are (n, tokens, d)."""
    scheduler = copy.deepcopy(model.pipe.scheduler)
    scheduler.set_timesteps(num_inference_steps, device=model.device)
    for timestep in scheduler.timesteps[:steps]:
        batch = timestep.expand(len(x_t))
        scaled = scheduler.scale_model_input(x_t, timestep)
        both = model.unet(
            torch.cat([scaled, scaled]),
            torch.cat([batch, batch]),
            encoder_hidden_states=torch.cat([uncond, text]),
        ).sample
        raw_uncond, raw_text = both.chunk(2)
        yield ScoredStep(
            int(timestep),
            model.to_noise(raw_uncond, scaled, batch),
            model.to_noise(raw_text, scaled, batch),
        )
        guided = raw_uncond + guidance * (raw_text - raw_uncond)
        x_t = scheduler.step(guided, timestep, x_t).prev_sample
