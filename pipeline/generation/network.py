"""What the probes ask of a model: a sampler's step, lengths of captions, pictures of latents.

All that is particular to an architecture passes through here.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline.errors import ModelError
from pipeline.generation.backend import DiffusionModel, Pictures

_LEAST_ALPHA = 0.01


def step_with(
    scheduler: Any,
    output: torch.Tensor,
    timestep: torch.Tensor,
    x_t: torch.Tensor,
    generators: Sequence[torch.Generator],
) -> torch.Tensor:
    """x at the next timestep; a sampler that adds noise takes each row's from its own generator."""
    takes = "generator" in inspect.signature(scheduler.step).parameters
    own = {"generator": list(generators)} if takes else {}
    following: torch.Tensor = scheduler.step(output, timestep, x_t, **own).prev_sample
    return following


def last_timestep(model: DiffusionModel) -> torch.Tensor:
    """The noisiest timestep of training at which x_0 can be told from a prediction, (1,)."""
    times = torch.arange(int(model.pipe.scheduler.config.num_train_timesteps), device=model.device)
    alpha, _ = model.alpha_sigma(times)
    return times[alpha.flatten() >= _LEAST_ALPHA][-1:]


def caption_lengths(model: DiffusionModel, captions: Sequence[str]) -> torch.Tensor:
    """How many tokens each caption has, (n,), its start and end token among them."""
    tokenizer = getattr(model.pipe, "tokenizer", None)
    if tokenizer is None:
        raise ModelError(f"{type(model.pipe).__name__}: has no tokenizer")
    most = int(tokenizer.model_max_length)
    tokens = tokenizer(list(captions), truncation=True, max_length=most).input_ids
    return torch.tensor([len(row) for row in tokens])


def decode_latents(model: DiffusionModel, latents: torch.Tensor) -> Pictures:
    """Pictures (n, h, w, 3) in 0..255 of latents x_0 (n, c, h, w).

    Raises ModelError where a value is not finite: a black picture would be a picture.
    """
    vae = model.pipe.vae
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    scaled = (latents / vae.config.scaling_factor + shift).to(vae.dtype)
    pixels = vae.decode(scaled).sample.float() / 2 + 0.5
    if not bool(pixels.isfinite().all()):
        raise ModelError(f"{type(model.pipe).__name__}: its picture is not finite")
    pictures: Pictures = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return np.ascontiguousarray(pictures)


def refuse_flow(model: DiffusionModel) -> None:
    """Raise ModelError for a flow model: its noise at the first step is x_t for every caption."""
    if model.flows:
        raise ModelError(f"{type(model.pipe).__name__}: not defined for flow models")
