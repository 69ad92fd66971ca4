"""What erasers are checked against, from definitions and in float64."""

import numpy as np
import torch


def signal_levels():
    """α_t² of the tiny model's schedule."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


def alpha_sigma(timesteps):
    level = signal_levels()[timesteps.numpy()].reshape(-1, 1, 1, 1)
    return np.sqrt(level), np.sqrt(1 - level)


def latents_of(model, pictures):
    scaled = torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    with torch.no_grad():
        return 0.18215 * model.pipe.vae.encode(scaled).latent_dist.mean.double().numpy()


def nearest(values, candidates):
    """Index of the candidate nearest to each value, both flattened."""
    gaps = values.reshape(len(values), 1, -1) - candidates.reshape(1, len(candidates), -1)
    return np.abs(gaps).max(axis=2).argmin(axis=1)


def texts_of(model, captions):
    with torch.no_grad():
        return model.embed_text(list(captions)).numpy()
