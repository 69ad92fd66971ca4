"""Drawing from any text states and from any noise level, which attacks need.

DDIM without added noise (Song et al. 2021, equation 12), with guided noise ε:

    x_s = α_s x̂_0 + σ_s ε,    x̂_0 = (x_t - σ_t ε) / α_t,    ε = ε(∅) + w [ε(y) - ε(∅)]

Time steps fall evenly from the start to 0; the last prediction of x_0 is the drawing.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipeline.erasure.attacks.subject import Pictures
from pipeline.erasure.trajectories import Walk
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.seeds import gaussian

_CHUNK = 32
_ALPHA_MIN = 1e-3  # schedules without signal at the end would divide by zero
Steer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def horizon(model: DiffusionModel) -> int:
    """Number of training time steps."""
    return int(model.pipe.scheduler.config.num_train_timesteps)


def timestep_at(model: DiffusionModel, level: float) -> int:
    """The time step at a share of the schedule, 1 for the last."""
    return max(0, min(horizon(model) - 1, round(level * horizon(model)) - 1))


def noised(
    model: DiffusionModel, x_0: torch.Tensor, timesteps: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """x_t = α x_0 + σ ε, shapes (n, c, h, w), timesteps (n,)."""
    alpha, sigma = model.alpha_sigma(timesteps)
    return alpha * x_0 + sigma * noise


@torch.no_grad()
def sample(
    model: DiffusionModel,
    x_t: torch.Tensor,
    text: torch.Tensor,
    walk: Walk,
    *,
    start: int,
    steer: Steer | None = None,
) -> torch.Tensor:
    """Latents x_0 (n, c, h, w) from x_t at time step `start`, under text (n, tokens, d).

    `steer` maps each x_t and its timesteps (n,) to the x_t that is denoised instead.
    """
    empty = model.embed_text([""])
    times = np.linspace(start, 0, walk.steps, endpoint=False).round().astype(int).tolist()
    for now, after in zip(times, [*times[1:], None], strict=True):
        timesteps = torch.full((len(x_t),), now, device=model.device)
        x_t = steer(x_t, timesteps) if steer else x_t
        noise = _guided(model, x_t, timesteps, text, empty, walk.guidance)
        alpha, sigma = model.alpha_sigma(timesteps)
        x_0 = (x_t - sigma * noise) / alpha.clamp_min(_ALPHA_MIN)
        if after is None:
            return x_0
        x_t = noised(model, x_0, torch.full_like(timesteps, after), noise)
    return x_t


def forwards_of(walk: Walk, count: int) -> int:
    """Passes through the UNet that `sample` takes for `count` drawings."""
    return walk.steps * count * (1 if walk.guidance == 1 else 2)


def _guided(
    model: DiffusionModel,
    x_t: torch.Tensor,
    timesteps: torch.Tensor,
    text: torch.Tensor,
    empty: torch.Tensor,
    guidance: float,
) -> torch.Tensor:
    if guidance == 1:
        return model.predict_noise(x_t, timesteps, text)
    both = torch.cat([empty.expand_as(text), text])
    noise = model.predict_noise(x_t.repeat(2, 1, 1, 1), timesteps.repeat(2), both)
    unconditional, conditional = noise.chunk(2)
    return unconditional + guidance * (conditional - unconditional)


@torch.no_grad()
def decode_latents(model: DiffusionModel, latents: torch.Tensor) -> Pictures:
    """Pictures (n, s, s, 3) in 0..255 of latents x_0: the inverse of `encode_pictures`."""
    vae = model.pipe.vae
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    decoded = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor + shift).sample
    values = decoded.float().cpu().permute(0, 2, 3, 1).numpy()
    return (np.nan_to_num(values / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)


def draw_from(
    model: DiffusionModel, text: torch.Tensor, seeds: Sequence[Sequence[int]], walk: Walk
) -> Pictures:
    """Draw from pure noise: text (n, tokens, d) and seeds n x draws give (n, draws, s, s, 3)."""
    draws = len(seeds[0])
    noise = gaussian(model.latent_shape, [seed for row in seeds for seed in row]).to(model.device)
    states = text.detach().repeat_interleave(draws, dim=0)
    drawn = [
        decode_latents(model, sample(model, x_t, y, walk, start=horizon(model) - 1))
        for x_t, y in zip(noise.split(_CHUNK), states.split(_CHUNK), strict=True)
    ]
    pictures = np.concatenate(drawn)
    return pictures.reshape(len(seeds), draws, *pictures.shape[1:])
