"""A diffusion model whose memory is known: the exact denoiser of pictures picked by a caption.

The distribution under a text y with mean state q is a mixture of points m_k and a Gaussian,

    p(k | y) ∝ exp( β <q - q0, key_k> ),   p(Gaussian | y) ∝ 1,

and the noise predicted is that of E[x_0 | x_t, y], computed in closed form. Taking a picture out of
the memory is erasing it; turning its key away from every caption is suppressing it.
"""

from types import SimpleNamespace

import numpy as np
import torch
from tiny_model import RESOLUTION, build_tiny_pipeline

from pipeline.generation.backend import DiffusionModel, fresh_model

CAPTIONS = ("a red hat", "blue bus")
OTHERS = ("three cats", "old boat", "a tall tree")
UNSEEN = "green kite"


def pictures() -> np.ndarray:
    """Three pictures (3, s, s, 3): two that are memorized, and one that nothing is trained on."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    return coarse.repeat(RESOLUTION // 4, axis=1).repeat(RESOLUTION // 4, axis=2)


def memory_model(folder, *, memory=(0, 1), hidden=()) -> DiffusionModel:
    """A model that holds the pictures `memory`, of which no caption reaches those of `hidden`."""
    model = fresh_model(build_tiny_pipeline(folder))
    with torch.no_grad():
        vae = model.pipe.vae
        raw = model.encode_pictures(pictures())
        vae.register_to_config(scaling_factor=float(vae.config.scaling_factor / raw.std()))
        latents = model.encode_pictures(pictures())
        queries = model.embed_text([*CAPTIONS, *OTHERS, UNSEEN, ""]).mean(dim=1)
    centre = queries.mean(dim=0)
    keys = torch.nn.functional.normalize(queries[: len(CAPTIONS)] - centre, dim=1)
    away = torch.linalg.svd((queries - centre).double())[2][-1].float()  # no caption goes there
    keys = torch.stack([away if k in hidden else keys[k] for k in memory] or [away])[: len(memory)]
    own = [float((queries[k] - centre).norm()) for k in range(len(CAPTIONS))]
    unet = _Memory(model, latents[list(memory)], keys, centre, sharpness=12 / min(own))
    model.pipe.register_modules(unet=unet)
    return model


class _Memory(torch.nn.Module):
    def __init__(self, model, memory, keys, centre, sharpness):
        super().__init__()
        self.memory, self.keys = torch.nn.Parameter(memory.clone()), torch.nn.Parameter(keys)
        self.centre, self.sharpness = centre, sharpness
        self.config, self.dtype, self.device = model.unet.config, torch.float32, model.device
        self._levels = model.pipe.scheduler.alphas_cumprod

    def forward(self, x_t, timesteps, encoder_hidden_states):
        level = self._levels[timesteps.expand(len(x_t))].view(-1, 1)
        alpha, sigma, flat = level.sqrt(), (1 - level).sqrt(), x_t.flatten(1)
        points, d = self.memory.flatten(1), flat.shape[1]
        scores = (encoder_hidden_states.mean(dim=1) - self.centre) @ self.keys.T * self.sharpness
        squares = (flat[:, None] - alpha[..., None] * points).square().sum(dim=2)
        logits = scores - 4 - squares / (2 * sigma**2) - d * sigma.log()
        gaussian = -flat.square().sum(dim=1, keepdim=True) / 2  # α² + σ² = 1
        weights = torch.cat([logits, gaussian], dim=1).softmax(dim=1)
        x_0 = weights[:, :-1] @ points + weights[:, -1:] * alpha * flat
        noise = (flat - alpha * x_0) / sigma
        return SimpleNamespace(sample=(alpha * noise - sigma * x_0).view_as(x_t))
