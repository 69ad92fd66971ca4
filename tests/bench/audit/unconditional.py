"""A model without captions (a stock DDPMPipeline), and what it reproduces of its training set.

Ho, Jain and Abbeel 2020, algorithm 1, on pictures of 16 x 16 pixels, which is what a core trains in
five minutes. Drawings are compared with every picture of the set by the adaptive measure of Carlini
et al. 2023, section 5: extracted where l2(x, y) < 0.5 x the mean l2 to the 50 nearest pictures.
"""

from copy import deepcopy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from torch.nn import functional as F

from pipeline.demo.muon import muon_and_adamw, warm_cosine
from pipeline.demo.shards import decode, read_shards, thumbnail
from pipeline.detection.adaptive_l2 import adaptive_l2
from pipeline.detection.l2 import pairwise_l2

SIDE = 16
BATCH = 32
MUON_RATE, ADAMW_RATE, EMA_DECAY = 0.02, 2e-3, 0.995
NEIGHBOURS = 50

Pictures = npt.NDArray[np.float32]


def training_pictures(folder: Path) -> tuple[list[str], Pictures]:
    """The picture_id of each row of a planted set, and its picture (n, SIDE, SIDE, 3) on [0, 1]."""
    planted = pq.read_table(folder / "planted.parquet", columns=["key", "picture_id"]).to_pylist()
    rows = read_shards(folder / "shards")
    ids = [row["picture_id"] for row in planted]
    contents = [rows[row["key"]].picture for row in planted]
    return ids, np.stack([thumbnail(decode(c), SIDE) for c in contents if c is not None])


def train(pictures: Pictures, out: Path, steps: int, seed: int) -> None:
    """Write a DDPMPipeline folder."""
    torch.manual_seed(seed)
    data = torch.from_numpy(pictures).permute(0, 3, 1, 2) * 2 - 1
    unet = UNet2DModel(
        sample_size=SIDE,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
    )
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    averaged = deepcopy(unet).requires_grad_(False).eval()
    optimizers = muon_and_adamw(unet, MUON_RATE, ADAMW_RATE)
    schedules = [warm_cosine(optimizer, steps) for optimizer in optimizers]
    for step in range(steps):
        x0 = data[torch.randint(len(data), (BATCH,))]
        t, e = torch.randint(1000, (BATCH,)), torch.randn_like(x0)
        x_t = scheduler.add_noise(x0, e, t)
        loss = F.mse_loss(unet(x_t, t).sample, scheduler.get_velocity(x0, e, t))
        unet.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), list(unet.parameters()), 1 - decay)
        if step % 500 == 0:
            print(f"unconditional: step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    DDPMPipeline(averaged, scheduler).save_pretrained(out)


@torch.inference_mode()
def draw(folder: Path, count: int, seed: int, steps: int = 25) -> Pictures:
    """(count, SIDE, SIDE, 3) on [0, 1], by DDIM: a thousand steps of DDPM cost forty times that."""
    pipe = DDPMPipeline.from_pretrained(folder, use_safetensors=True)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    drawn = []
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, count, 128):
        x = torch.randn(min(128, count - start), 3, SIDE, SIDE, generator=generator)
        for t in scheduler.timesteps:
            x = scheduler.step(pipe.unet(x, t).sample, t, x).prev_sample
        drawn.append((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())
    return np.concatenate(drawn).astype(np.float32)


def extracted(drawn: Pictures, ids: list[str], pictures: Pictures) -> dict[str, int]:
    """By picture_id: how many drawings extract it by the adaptive measure.

    One copy of each picture is compared: sixty-four of them would be one another's neighbours.
    """
    first = {name: place for place, name in reversed(list(enumerate(ids)))}
    names = sorted(first)
    theirs = pictures[[first[name] for name in names]]
    counts: dict[str, int] = {}
    for block in np.array_split(drawn, max(1, len(drawn) // 256)):
        distances = pairwise_l2(block, theirs)
        nearest = np.sort(distances, axis=1)[:, : min(NEIGHBOURS, len(names))]
        ratio = adaptive_l2(distances.min(axis=1), nearest)
        for place, value in zip(distances.argmin(axis=1), ratio, strict=True):
            if value < 1:
                counts[names[place]] = counts.get(names[place], 0) + 1
    return counts
