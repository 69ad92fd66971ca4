"""A diffusion model as the audit sees it: it draws, and it predicts noise.

What an architecture reads and how it is called is in pipeline.generation.adapters; a pipeline that
none of them knows can still be drawn. All predictions are returned as noise, whatever the network
was trained to predict (pipeline.generation.predictions).
"""

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.generation.adapters.base import Adapter
from pipeline.generation.adapters.choose import adapter_for
from pipeline.generation.adapters.unet import TextUNet
from pipeline.generation.conditions import Conditions
from pipeline.generation.loading import load_pipeline
from pipeline.generation.lora import Lora, apply_lora
from pipeline.generation.predictions import FLOW, alpha_sigma, family, noise_of, predicted_kind
from pipeline.generation.sampling import Sampling
from pipeline.generation.schedulers import build_scheduler, require_steps
from pipeline.generation.seeds import gaussian

Pictures = npt.NDArray[np.uint8]
NOTHING = Conditions({})

__all__ = ["NOTHING", "DiffusionModel", "Pictures", "Sampling", "fresh_model", "load_model"]


class DiffusionModel:
    """A loaded pipeline; build it with `load_model`."""

    def __init__(self, pipe: Any, *, resolution: int | None = None) -> None:
        """Raise ModelError where a component is missing or does not fit, ConfigError for a size."""
        self.pipe = pipe
        self.adapter: Adapter = adapter_for(pipe, resolution)

    @property
    def unet(self) -> Any:
        """The UNet that reads text alone; raises ModelError for another architecture."""
        if type(self.adapter) is not TextUNet:
            name = type(self.pipe).__name__
            raise ModelError(f"{name}: this needs a UNet conditioned on text alone")
        return self.adapter.denoiser

    @property
    def unconditional(self) -> bool:
        """Whether it draws without captions."""
        return self.adapter.unconditional

    @property
    def flows(self) -> bool:
        """Whether it is a flow model: its first noise prediction is x_t whatever the caption."""
        return family(self.pipe.scheduler) == FLOW

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        return torch.device(self.pipe.device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of x_t."""
        return self.adapter.latent_shape

    @property
    def resolution(self) -> int:
        """Side of the pictures it draws, in pixels; the height where they are not square."""
        pixels = self.adapter.pixels
        if pixels is None:
            self.adapter.refuse()
        return pixels[0]

    # Noise prediction.

    def conditions(self, captions: Sequence[str], *, guidance: float = 1.0) -> Conditions:
        """What the network is told for captions, a row each.

        `guidance` matters to distilled models alone, whose network is told it.
        """
        return self.adapter.conditions(captions, guidance)

    def unconditioned(self, negative_prompt: str = "", *, guidance: float = 1.0) -> Conditions:
        """What the network is told without a caption, one row: `expand` it to a batch."""
        return self.adapter.unconditioned(negative_prompt, guidance)

    def embed_text(self, captions: Sequence[str]) -> torch.Tensor:
        """Text-encoder states (n, tokens, d) of a UNet that reads nothing else."""
        _ = self.unet
        return self.conditions(captions).tensor("text")

    def guidance_weight(self, how: Sampling) -> float:
        """The weight w of ε(∅) + w (ε(c) - ε(∅)) that the pipeline steps with; 1 is ε(c) alone."""
        weight = how.true_cfg if self.adapter.distilled else how.guidance
        return max(1.0, weight)

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Unit Gaussian noise of each seed, (n, c, h, w): what `draw` begins with."""
        return gaussian(self.latent_shape, seeds).to(self.device, self.adapter.denoiser.dtype)

    def alpha_sigma(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """α_t and σ_t of x_t = α x_0 + σ ε, each (n, 1, 1, 1) for timesteps (n,)."""
        return alpha_sigma(self.pipe.scheduler, timesteps.to(self.device))

    def output(
        self, x_t: torch.Tensor, timesteps: torch.Tensor, text: Conditions | torch.Tensor
    ) -> torch.Tensor:
        """The network's raw output (n, c, h, w), without the variance that some learn."""
        told = Conditions({"text": text}) if isinstance(text, torch.Tensor) else text
        return self.adapter.output(x_t, timesteps, told)[:, : x_t.shape[1]]

    def predict_noise(
        self,
        x_t: torch.Tensor,
        timesteps: torch.Tensor,
        text: Conditions | torch.Tensor = NOTHING,
    ) -> torch.Tensor:
        """ε(x_t, t, text) with x_t (n, c, h, w), timesteps (n,) and conditions of n rows.

        A UNet that reads text alone may be given its states (n, tokens, d), a model that draws
        without captions nothing.
        """
        return self.to_noise(self.output(x_t, timesteps, text), x_t, timesteps)

    def to_noise(
        self, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The network's raw output as a noise prediction."""
        kind = predicted_kind(self.pipe.scheduler)
        if kind == "epsilon":
            return output
        return noise_of(kind, output, x_t, *self.alpha_sigma(timesteps))

    def encode_pictures(self, pictures: Pictures) -> torch.Tensor:
        """Latents x_0 (n, c, h, w) of pictures (n, s, s, 3) at the model's resolution."""
        batch = torch.tensor(pictures).to(self.device).permute(0, 3, 1, 2)
        return self.adapter.to_latents(batch.to(self.adapter.denoiser.dtype) / 127.5 - 1)

    # Sampling.

    def use_scheduler(self, name: str) -> None:
        """Change the sampler, keeping the noise schedule of the model.

        Raises ConfigError for an unknown name and for one that the model cannot use.
        """
        self.pipe.scheduler = build_scheduler(name, self.pipe.scheduler)

    def start(self, steps: int) -> tuple[Any, torch.Tensor]:
        """A copy of the model's scheduler, set to so many steps, and its time steps."""
        scheduler = copy.deepcopy(self.pipe.scheduler)
        return scheduler, self.adapter.start(scheduler, steps)

    @torch.inference_mode()
    def draw(
        self, captions: Sequence[str] | Conditions, seeds: Sequence[int], how: Sampling
    ) -> Pictures:
        """Draw one picture a (caption, seed); (n, h, w, 3) in 0..255.

        `captions` may be their `conditions` instead, of a model that predicts noise. A model
        without captions takes the seeds alone. Each picture has its own CPU generator, so
        it does not depend on its neighbours but for the last bits of batched arithmetic.
        """
        if not self.unconditional and len(captions) != len(seeds):
            raise ValueError(f"{len(captions)} captions and {len(seeds)} seeds, a generator each")
        own = self.pipe.scheduler
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        try:
            self.use_scheduler(how.scheduler)
            self._require_steps(how)
            result = self.adapter.draw(captions, generators, how)
        finally:
            self.pipe.scheduler = own
        pictures = np.nan_to_num(result).clip(0, 1)
        return (pictures * 255).round().astype(np.uint8)

    def _require_steps(self, how: Sampling) -> None:
        trial = copy.deepcopy(self.pipe.scheduler)
        require_steps(how.scheduler, trial, how.steps, self.adapter.start)


@lru_cache(maxsize=2)
def _cached_model(
    folder: Path,
    fingerprint: str,
    device: str,
    dtype: str,
    lora: Lora | None,
    resolution: int | None,
    compiled: bool,
) -> DiffusionModel:
    del fingerprint  # a key only: another model in the same folder is another entry
    return fresh_model(
        folder, device=device, dtype=dtype, lora=lora, resolution=resolution, compiled=compiled
    )


def load_model(
    folder: Path,
    *,
    fingerprint: str = "",
    device: str = "cpu",
    dtype: str = "float32",
    lora: Lora | None = None,
    resolution: int | None = None,
    compiled: bool = False,
) -> DiffusionModel:
    """Load a checked diffusers folder, once a process for each fingerprint.

    The cached model must not be changed; an eraser asks for one of its own with `fresh_model`.
    """
    return _cached_model(folder.resolve(), fingerprint, device, dtype, lora, resolution, compiled)


def fresh_model(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    lora: Lora | None = None,
    resolution: int | None = None,
    compiled: bool = False,
) -> DiffusionModel:
    """Load a model that the caller may change.

    `lora` is merged into the weights. `compiled` compiles the network for a CUDA device; raises
    ConfigError for another one.
    """
    if compiled and not device.startswith("cuda"):
        raise ConfigError(f"model.compile: for a CUDA device, not {device!r}")
    pipe = load_pipeline(folder, device=device, dtype=getattr(torch, dtype))
    if lora is not None:
        apply_lora(pipe, lora)
    model = DiffusionModel(pipe, resolution=resolution)
    if compiled:
        model.adapter.denoiser.compile()
    return model
