"""Both noise predictions at a late timestep of a trajectory's first noise (Asthana et al. 2026).

The network is given what it is given at the first step, x_T as the scheduler scales it, and told
another timestep. Nothing is denoised: one pair of forwards, whatever the timestep.
"""

import torch

from pipeline.generation.backend import DiffusionModel
from pipeline.generation.conditions import Conditions
from pipeline.generation.trajectory import ScoredStep, as_conditions, scaled_input


@torch.inference_mode()
def pure_noise_step(
    model: DiffusionModel,
    text: Conditions | torch.Tensor,
    uncond: Conditions | torch.Tensor,
    noise: torch.Tensor,
    *,
    num_inference_steps: int,
    step: int,
) -> tuple[int, ScoredStep]:
    """The number, from 0, and both predictions of `step` on unit noise (n, c, h, w).

    `step` counts from the end if negative, as in a list; a sampler with fewer steps is asked at
    its first. `text` has n rows; `uncond` too, or one for all.
    """
    scheduler, timesteps = model.start(num_inference_steps)
    n = len(timesteps)
    number = min(max(step + n if step < 0 else step, 0), n - 1)
    x_t = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    scaled = scaled_input(scheduler, x_t, timesteps[0])
    timestep = timesteps[number]
    told, nothing = as_conditions(text), as_conditions(uncond)
    nothing = nothing.expand(len(x_t)) if len(nothing) == 1 else nothing
    raw_uncond, raw_text = model.output(
        torch.cat([scaled, scaled]), timestep.expand(2 * len(x_t)), Conditions.cat([nothing, told])
    ).chunk(2)
    return number, ScoredStep.of(model, timestep, scaled, raw_uncond, raw_text)
