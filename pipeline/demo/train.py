"""Train the demo's text-to-image model from scratch, on a CPU, in minutes.

A stock latent diffusion model (Rombach et al. 2022), only small: the shipped autoencoder, a
one-level U-Net and a two-layer CLIP text encoder, trained together. With a_t the cumulative product
of the schedule, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, the U-Net predicts the velocity
v = sqrt(a_t) e - sqrt(1 - a_t) x_0 (Salimans and Ho 2022, section 4); a caption is dropped with
probability 0.15 for classifier-free guidance (Ho and Salimans 2021, algorithm 1).

The result is a plain StableDiffusionPipeline folder in fp32. Steps, not time, are fixed: equal
shards, steps, seed and threads give equal weights.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipeline.demo.muon import muon_and_adamw
from pipeline.demo.shards import decode, read_shards, thumbnail

ASSETS = Path(__file__).parent / "assets"
WIDTH = 64
CAPTION_DROPOUT = 0.15
MUON_RATE, ADAMW_RATE, WARM_UP = 0.02, 2e-3, 50
EMA_DECAY = 0.995
MAX_GRAD_NORM = 1.0

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class TrainingSet:
    """Latents (n, 16, 8, 8) of unit variance, caption tokens (n, length), the empty caption's."""

    latents: Tensor
    tokens: Tensor
    empty: Tensor

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Latents and tokens of random rows, without end; some captions are dropped."""
        while True:
            order = torch.randperm(len(self.latents), generator=generator)
            for rows in order.split(size):
                dropped = torch.rand(len(rows), 1, generator=generator) < CAPTION_DROPOUT
                yield self.latents[rows], torch.where(dropped, self.empty, self.tokens[rows])


def train_model(
    shards: Path,
    out: Path,
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = 32,
    threads: int = 2,
    on_progress: Progress | None = None,
) -> None:
    """Train on the pictures and captions of `shards`; write a diffusers folder to `out`.

    `on_progress` is called after each step with the steps done, the steps in all, and the loss.
    """
    with _reproducibly(seed, threads):
        vae = AutoencoderKL.from_pretrained(ASSETS / "vae", torch_dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "tokenizer")
        scheduler = _scheduler()
        data = _encode(shards, vae, tokenizer)
        model = nn.ModuleDict({"unet": _unet(), "text_encoder": _text_encoder(tokenizer)})
        averaged = _fit(model, data, scheduler.alphas_cumprod, steps, batch_size, seed, on_progress)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=averaged["text_encoder"],
        tokenizer=tokenizer,
        unet=averaged["unet"],
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)


def _fit(
    model: nn.ModuleDict,
    data: TrainingSet,
    alphas: Tensor,
    steps: int,
    batch_size: int,
    seed: int,
    on_progress: Progress | None,
) -> nn.ModuleDict:
    """The exponential moving average of the trained weights."""
    generator = torch.Generator().manual_seed(seed)
    averaged = deepcopy(model).requires_grad_(False).eval()
    optimizers = muon_and_adamw(model, MUON_RATE, ADAMW_RATE)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda i: _warm_cosine(i, steps)) for o in optimizers
    ]
    batches = data.batches(batch_size, generator)
    for step in range(steps):
        loss = _velocity_loss(model, *next(batches), alphas, generator)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM, foreach=True)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)
        if on_progress is not None:
            on_progress(step + 1, steps, loss.item())
    return averaged


def _velocity_loss(
    model: nn.ModuleDict, x0: Tensor, tokens: Tensor, alphas: Tensor, generator: torch.Generator
) -> Tensor:
    # One time step from each of equal strata: the same expectation, with less noise.
    strata = (torch.arange(len(x0)) + torch.rand(len(x0), generator=generator)) / len(x0)
    t = (strata * len(alphas)).long().clamp(max=len(alphas) - 1)
    signal, noise = (
        alphas[t].sqrt()[:, None, None, None],
        (1 - alphas[t]).sqrt()[:, None, None, None],
    )
    e = torch.randn(x0.shape, generator=generator)
    text = model["text_encoder"](tokens).last_hidden_state
    v = model["unet"](signal * x0 + noise * e, t, text).sample
    return F.mse_loss(v, signal * e - noise * x0)


def _warm_cosine(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _encode(shards: Path, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> TrainingSet:
    rows = list(read_shards(shards).values())
    pictures = np.stack([thumbnail(decode(row.picture)) for row in rows if row.picture is not None])
    inputs = torch.from_numpy(pictures).permute(0, 3, 1, 2) * 2 - 1
    latents = [vae.encode(x).latent_dist.mode() for x in inputs.split(256)]

    def tokenize(captions: list[str]) -> Tensor:
        batch = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        return batch.input_ids

    return TrainingSet(
        latents=torch.cat(latents) * vae.config.scaling_factor,
        tokens=tokenize([row.caption for row in rows]),
        empty=tokenize([""]),
    )


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(WIDTH,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


@contextmanager
def _reproducibly(seed: int, threads: int) -> Iterator[None]:
    """Seed the weights' initial values and fix the threads; put both back at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
