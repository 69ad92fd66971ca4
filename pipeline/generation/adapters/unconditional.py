"""Models that draw without captions: DDPM and DDIM on pixels, latent diffusion on a VQ-VAE.

The pipelines of diffusers step such a model without scaling its input, which is wrong with half of
the schedulers, so the loop is here; with the schedulers that they are made for it draws the same.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.generation.adapters.base import Adapter
from pipeline.generation.conditions import Conditions
from pipeline.generation.sampling import Sampling


class Unconditional(Adapter):
    """A UNet2DModel, with or without a VQ-VAE."""

    unconditional = True
    required = ("unet", "scheduler")

    def check(self) -> None:
        """Raise ModelError unless it draws without a class, ConfigError for another size."""
        config = self.denoiser.config
        if config.get("num_class_embeds") or config.get("class_embed_type"):
            raise ModelError(f"{self.name}: draws by classes, which are not supported yet")
        if self._resolution is not None:
            raise ConfigError(f"model.resolution: {self.name} draws at its own size only")

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.pipe.unet

    @property
    def _vae(self) -> Any:
        return getattr(self.pipe, "vqvae", None)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of x_t."""
        config = self.denoiser.config
        size = config.sample_size
        if size is None:
            raise ModelError(f"{self.name}: its network's sample_size is not known")
        height, width = (size, size) if isinstance(size, int) else size
        return int(config.in_channels), int(height), int(width)

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        blocks = len(self._vae.config.block_out_channels) if self._vae is not None else 1
        _, height, width = self.latent_shape
        return height << (blocks - 1), width << (blocks - 1)

    def output(
        self, x_t: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """Raw output; of a network that learned a variance too, (n, 2c, h, w)."""
        del conditions
        output: torch.Tensor = self.denoiser(x_t, timesteps).sample
        return output

    def to_latents(self, pixels: torch.Tensor) -> torch.Tensor:
        """x_0 (n, c, h, w) of pictures (n, 3, h, w) in -1..1; a grey model sees the mean."""
        if self._vae is None:
            wanted = self.latent_shape[0]
            return pixels.mean(1, keepdim=True) if wanted == 1 else pixels
        latents: torch.Tensor = self._vae.encode(pixels.to(self._vae.dtype)).latents
        return latents * self._vae.config.scaling_factor

    def draw(
        self,
        captions: Sequence[str] | Conditions,
        generators: Sequence[torch.Generator],
        how: Sampling,
    ) -> npt.NDArray[np.float32]:
        """One picture a generator, (n, h, w, 3) in 0..1."""
        del captions
        shape = self.latent_shape
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        x_t = self.sample(noise.to(self.pipe.device, self.denoiser.dtype), generators, how.steps)
        if self._vae is not None:
            x_t = self._vae.decode(x_t / self._vae.config.scaling_factor).sample
        pictures = (x_t.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        return pictures.repeat(3, axis=3) if pictures.shape[3] == 1 else pictures

    def sample(
        self, x_t: torch.Tensor, generators: Sequence[torch.Generator], steps: int
    ) -> torch.Tensor:
        """x_0 (n, c, h, w) from unit noise, by the pipeline's scheduler."""
        scheduler = self.pipe.scheduler
        timesteps = self.start(scheduler, steps)
        taken = inspect.signature(scheduler.step).parameters
        noisy = {"generator": list(generators)} if "generator" in taken else {}
        x_t = x_t * float(scheduler.init_noise_sigma)
        for timestep in timesteps:
            scaled = scheduler.scale_model_input(x_t, timestep)
            output = self.output(scaled, timestep.expand(len(x_t)), Conditions({}))
            if not str(scheduler.config.get("variance_type")).startswith("learned"):
                output = output[:, : x_t.shape[1]]
            x_t = scheduler.step(output, timestep, x_t, **noisy).prev_sample
        return x_t
