"""A whole sampling, with what was attended to and how far the caption pulled at each step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.generation.backend import DiffusionModel
from pipeline.generation.cross_attention import Layer, recorded_attention
from pipeline.generation.network import (
    caption_lengths,
    step_with,
)

_DOWN = "down_blocks"


@dataclass(frozen=True)
class Attended:
    """n trajectories of S steps.

    first: attention over tokens at step 0 (layers, n, tokens); over_tokens: the mean over layers
    at each step (S, n, tokens); gap_squares: |eps_c - eps_u|^2 over channels (S, n, h, w);
    to_end: at the last step, what each position pays to the end token (n, h, w); lengths (n,).
    """

    first: npt.NDArray[np.float64]
    over_tokens: npt.NDArray[np.float64]
    gap_squares: npt.NDArray[np.float64]
    to_end: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]


@torch.inference_mode()
def attended_steps(
    model: DiffusionModel,
    captions: Sequence[str],
    seeds: Sequence[int],
    *,
    num_inference_steps: int,
    guidance: float,
    negative_prompt: str = "",
    steps: int | None = None,
) -> Attended:
    """The first `steps` steps (None: all) of one trajectory a (caption, seed).

    The prediction with the caption is recorded, that without is not. Raises ModelError where the
    network has no cross-attention that can be read.
    """
    text = model.embed_text(captions)
    uncond = model.embed_text([negative_prompt]).expand_as(text)
    lengths = caption_lengths(model, captions)
    scheduler, timesteps = model.start(num_inference_steps)
    x_t = model.noise(seeds) * float(scheduler.init_noise_sigma)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    first: list[Layer] = []
    last: list[Layer] = []
    over_tokens, gap_squares = [], []
    with recorded_attention(model.unet, lengths - 1) as recorded:
        for timestep in timesteps[:steps]:
            scaled = scheduler.scale_model_input(x_t, timestep)
            raw_text = model.output(scaled, timestep.expand(len(scaled)), text)
            last = recorded.take()
            first = first or last
            raw_uncond = model.output(scaled, timestep.expand(len(scaled)), uncond)
            recorded.take()
            over_tokens.append(torch.stack([layer.over_tokens for layer in last]).mean(dim=0))
            times = timestep.expand(len(x_t))
            noise = model.to_noise(raw_text, scaled, times)
            gap = noise - model.to_noise(raw_uncond, scaled, times)
            gap_squares.append(gap.cpu().double().square().sum(dim=1))
            guided = raw_text  # as pipelines do, which leave guidance out below 1
            if guidance > 1:
                guided = raw_uncond + guidance * (raw_text - raw_uncond)
            x_t = step_with(scheduler, guided, timestep, x_t, generators)
    return Attended(
        first=torch.stack([layer.over_tokens for layer in first]).double().numpy(),
        over_tokens=torch.stack(over_tokens).double().numpy(),
        gap_squares=torch.stack(gap_squares).numpy(),
        to_end=end_mask(last, x_t.shape[2], x_t.shape[3]).double().numpy(),
        lengths=lengths.numpy(),
    )


def end_mask(layers: Sequence[Layer], height: int, width: int) -> torch.Tensor:
    """The mean map (n, height, width) of the layers of the finest resolution on the way down.

    Where a network has no way down that attends, of all layers. Coarser maps are interpolated.
    """
    down = [layer for layer in layers if layer.name.startswith(_DOWN)] or list(layers)
    finest = max(layer.to_marked.shape[1] for layer in down)
    flat = torch.stack([x.to_marked for x in down if x.to_marked.shape[1] == finest]).mean(dim=0)
    rows = round((finest * height / width) ** 0.5)
    maps = flat.view(len(flat), 1, rows, finest // rows)
    return torch.nn.functional.interpolate(maps, (height, width), mode="bilinear").squeeze(1)
