"""Pictures after a single step from pure noise (Webster 2023).

    x_0 = (x_T - sigma_T (u + g (c - u))) / alpha_T,    u = eps(x_T, no text), c = eps(x_T, caption)

at the noisiest timestep of training: one Euler step from sigma_max to 0, whatever sampler the model
has.
"""

from collections.abc import Sequence

import torch

from pipeline.generation.backend import DiffusionModel, Pictures
from pipeline.generation.network import decode_latents, last_timestep, refuse_flow


@torch.inference_mode()
def one_step_pictures(
    model: DiffusionModel,
    captions: Sequence[str],
    seeds: Sequence[int],
    *,
    guidance: float,
    negative_prompt: str = "",
) -> Pictures:
    """One picture a (caption, seed), (n, h, w, 3) in 0..255; two forwards each.

    Raises ModelError for a flow model.
    """
    refuse_flow(model)
    text = model.embed_text(captions)
    uncond = model.embed_text([negative_prompt]).expand_as(text)
    x_t = model.noise(seeds)
    times = last_timestep(model).expand(len(x_t))
    noise = model.predict_noise(x_t, times, uncond)
    noise = noise + guidance * (model.predict_noise(x_t, times, text) - noise)
    alpha, sigma = model.alpha_sigma(times)
    return decode_latents(model, ((x_t - sigma * noise) / alpha).to(x_t.dtype))
