"""An autoencoder for pictures that the shipped one has not seen: the shipped one, trained on.

The demo's autoencoder knows Open Clip Art; other pictures come back blurred, and what cannot be
drawn cannot be reproduced. The objective is that of pipeline/demo/make_vae.py.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from pipeline.demo.make_vae import ADAMW_RATE, BATCH, MUON_RATE, objective
from pipeline.demo.muon import muon_and_adamw, warm_cosine
from pipeline.demo.train import ASSETS
from tests.bench.audit.sources import Picture, thumbnails


def fit_autoencoder(pictures: list[Picture], out: Path, steps: int) -> float:
    """Write a diffusers folder; return the RMS of the reconstructions' errors, on [0, 1]."""
    torch.manual_seed(0)
    data = torch.from_numpy(thumbnails(pictures)).permute(0, 3, 1, 2) * 2 - 1
    vae = AutoencoderKL.from_pretrained(ASSETS / "vae", torch_dtype=torch.float32)
    optimizers = muon_and_adamw(vae, MUON_RATE, ADAMW_RATE)
    schedules = [warm_cosine(optimizer, steps) for optimizer in optimizers]
    for step in range(steps):
        x = data[torch.randint(len(data), (BATCH,))]
        flipped = torch.rand(len(x), 1, 1, 1) < 0.5
        x = torch.where(flipped, x.flip(3), x)
        loss = objective(vae, x)
        vae.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % 100 == 0:
            print(f"autoencoder, step {step} of {steps}: loss {loss.item():.4f}", flush=True)
    with torch.no_grad():
        latents = torch.cat([vae.encode(b).latent_dist.mode() for b in data.split(256)])
        drawn = torch.cat([vae.decode(z).sample for z in latents.split(256)]).clamp(-1, 1)
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    vae.save_pretrained(out)
    return ((drawn - data) / 2).square().mean(dim=(1, 2, 3)).sqrt().mean().item()
