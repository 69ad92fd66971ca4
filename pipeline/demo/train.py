"""Train the demo's text-to-image model from scratch, on a CPU, in minutes.

A stock latent diffusion model (Rombach et al. 2022), only small: the shipped autoencoder, a
one-level U-Net and a two-layer CLIP text encoder, trained together. With a_t the cumulative product
of the schedule, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, the U-Net predicts the velocity
v = sqrt(a_t) e - sqrt(1 - a_t) x_0 (Salimans and Ho 2022, section 4); a caption is dropped with
probability 0.15 for classifier-free guidance (Ho and Salimans 2021, algorithm 1).

The result is a plain StableDiffusionPipeline folder in fp32. Steps, not time, are fixed: equal
shards, steps, seed and threads give equal weights.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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

from pipeline.demo.muon import muon_and_adamw, warm_cosine
from pipeline.demo.shards import decode, read_shards, thumbnail
from pipeline.generation.saving import save_pipeline

ASSETS = Path(__file__).parent / "assets"
WIDTH = 64
CAPTION_DROPOUT = 0.15
MUON_RATE, ADAMW_RATE = 0.02, 2e-3
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
    autoencoder: Path = ASSETS / "vae",
) -> None:
    """Train on the pictures and captions of `shards`; write a diffusers folder to `out`.

    `on_progress` is called after each step with the steps done, the steps in all, and the loss.
    Pictures of another kind than the demo's want an `autoencoder` of their own.
    """
    with _reproducibly(seed):
        vae = AutoencoderKL.from_pretrained(autoencoder, torch_dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "tokenizer")
        scheduler = _scheduler()
        data = _encode(shards, vae, tokenizer)
        model = nn.ModuleDict({"unet": _unet(), "text_encoder": _text_encoder(tokenizer)})
        batches = data.batches(batch_size, torch.Generator().manual_seed(seed))
        averaged = _fit(model, batches, scheduler.alphas_cumprod, steps, threads, on_progress)
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
    save_pipeline(pipeline, out)


def _fit(
    model: nn.ModuleDict,
    batches: Iterator[tuple[Tensor, Tensor]],
    alphas: Tensor,
    steps: int,
    threads: int,
    on_progress: Progress | None,
) -> nn.ModuleDict:
    """The exponential moving average of the trained weights."""
    generator = torch.Generator().manual_seed(torch.initial_seed())
    averaged = deepcopy(model).requires_grad_(False).eval()
    optimizers = muon_and_adamw(model, MUON_RATE, ADAMW_RATE)
    schedules = [warm_cosine(optimizer, steps) for optimizer in optimizers]
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    for step in range(steps):
        x0, tokens = next(batches)
        t, e = _noise(x0, len(alphas), generator)
        shares = zip(*(part.chunk(threads) for part in (x0, tokens, t, e)), strict=True)
        loss = _accumulate(model, pool.map(lambda share: _share(model, alphas, *share), shares))
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM, foreach=True)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)
        if on_progress is not None:
            on_progress(step + 1, steps, loss)
    pool.shutdown()
    return averaged


def _accumulate(model: nn.ModuleDict, shares: Iterable[tuple[float, list[Tensor]]]) -> float:
    """Set the mean gradient of equal shares of a batch, added in their order; return the loss."""
    losses, gradients = zip(*shares, strict=True)
    for weight, parts in zip(model.parameters(), zip(*gradients, strict=True), strict=True):
        weight.grad = torch.stack(parts).mean(0)
    return float(np.mean(losses))


def _share(
    model: nn.ModuleDict, alphas: Tensor, x0: Tensor, tokens: Tensor, t: Tensor, e: Tensor
) -> tuple[float, list[Tensor]]:
    # A thread a share: threads inside operations wait for each other at every one of them, and
    # for seconds a step where another process has one of the cores.
    loss = _velocity_loss(model, alphas, x0, tokens, t, e)
    gradients = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return float(loss.detach()), list(gradients)


def _noise(x0: Tensor, n_steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    # One time step from each of equal strata, dealt at random: the same expectation, less noise.
    strata = (torch.arange(len(x0)) + torch.rand(len(x0), generator=generator)) / len(x0)
    t = (strata * n_steps).long().clamp(max=n_steps - 1)
    dealt = t[torch.randperm(len(x0), generator=generator)]
    return dealt, torch.randn(x0.shape, generator=generator)


def _velocity_loss(
    model: nn.ModuleDict, alphas: Tensor, x0: Tensor, tokens: Tensor, t: Tensor, e: Tensor
) -> Tensor:
    signal, noise = (
        alphas[t].sqrt()[:, None, None, None],
        (1 - alphas[t]).sqrt()[:, None, None, None],
    )
    text = model["text_encoder"](tokens).last_hidden_state
    v = model["unet"](signal * x0 + noise * e, t, text).sample
    return F.mse_loss(v, signal * e - noise * x0)


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
def _reproducibly(seed: int) -> Iterator[None]:
    """Seed the weights' initial values, one thread an operation; put both back at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
