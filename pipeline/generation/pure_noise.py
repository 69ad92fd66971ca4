"""Both noise predictions at a late timestep of a trajectory's first noise (Asthana et al. 2026).

The network is given what it is given at the first step, x_T as the scheduler scales it, and told
another timestep. Nothing is denoised: one pair of forwards, whatever the timestep.
"""

import torch

from pipeline.generation.backend import DiffusionModel
from pipeline.generation.network import start
from pipeline.generation.trajectory import ScoredStep


@torch.inference_mode()
def pure_noise_step(
    model: DiffusionModel,
    text: torch.Tensor,
    uncond: torch.Tensor,
    noise: torch.Tensor,
    *,
    num_inference_steps: int,
    step: int,
) -> tuple[int, ScoredStep]:
    """The number, from 0, and both predictions of `step` on unit noise (n, c, h, w).

    `step` counts from the end if negative, as in a list; a sampler with fewer steps is asked at
    its first. text and uncond are (n, tokens, d).
    """
    scheduler, timesteps = start(model, num_inference_steps)
    n = len(timesteps)
    number = min(max(step + n if step < 0 else step, 0), n - 1)
    x_t = noise * float(scheduler.init_noise_sigma)
    scaled = scheduler.scale_model_input(x_t, timesteps[0])
    timestep = timesteps[number]
    both = model.predict_noise(
        torch.cat([scaled, scaled]), timestep.expand(2 * len(x_t)), torch.cat([uncond, text])
    )
    eps_uncond, eps_text = both.chunk(2)
    return number, ScoredStep(int(timestep), eps_uncond, eps_text)
