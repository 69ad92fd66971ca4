"""A text-to-image diffusion model as the audit sees it: it draws, and it predicts noise.

Drawing works with every diffusers text-to-image pipeline. Noise prediction, which the screen and
the erasers need, works where a UNet2DConditionModel is conditioned on text alone (Stable
Diffusion 1 and 2 and their kin). All predictions are returned as noise, whatever the model was
trained to predict: with x_t = α x_0 + σ ε,

    ε-prediction: ε = output        v-prediction: ε = α v + σ x_t        sample: ε = (x_t - α x_0)/σ

(Salimans and Ho 2022, appendix D).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.generation.loading import load_pipeline
from pipeline.generation.seeds import gaussian

Pictures = npt.NDArray[np.uint8]

_SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "pndm": "PNDMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "heun": "HeunDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
}
_SETTINGS = {"pndm": {"skip_prk_steps": True}}  # as Stable Diffusion does: a forward a step


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn. `scheduler` "default" keeps the model's own."""

    scheduler: str = "default"
    steps: int = 25
    guidance: float = 2.0
    negative_prompt: str = ""


class DiffusionModel:
    """A loaded pipeline; build it with `load_model`."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @property
    def unet(self) -> Any:
        """The noise predictor; raises ModelError where the architecture has no plain text UNet."""
        unet = getattr(self.pipe, "unet", None)
        if unet is None or not hasattr(unet.config, "cross_attention_dim"):
            name = type(self.pipe).__name__
            raise ModelError(f"{name}: noise prediction needs a UNet conditioned on text")
        if getattr(unet.config, "addition_embed_type", None) is not None:
            raise ModelError(f"{type(self.pipe).__name__}: extra conditioning is not supported yet")
        return unet

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        return torch.device(self.pipe.device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of x_t."""
        config = self.unet.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(config.in_channels), int(height), int(width)

    @property
    def resolution(self) -> int:
        """Side of the pictures it draws, in pixels."""
        return self.latent_shape[1] * int(self.pipe.vae_scale_factor)

    def embed_text(self, captions: Sequence[str]) -> torch.Tensor:
        """Text-encoder states, (n, tokens, d)."""
        embedded, _ = self.pipe.encode_prompt(
            list(captions), self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return embedded

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """x_T of each seed, (n, c, h, w), at the scheduler's initial scale."""
        noise = gaussian(self.latent_shape, seeds).to(self.device, self.unet.dtype)
        return noise * float(self.pipe.scheduler.init_noise_sigma)

    def alpha_sigma(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """α_t and σ_t of x_t = α x_0 + σ ε, each (n, 1, 1, 1) for integer timesteps (n,)."""
        cumulative = self.pipe.scheduler.alphas_cumprod.to(self.device)[timesteps.long()]
        cumulative = cumulative.view(-1, 1, 1, 1)
        return cumulative.sqrt(), (1 - cumulative).sqrt()

    def predict_noise(
        self, x_t: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        """ε(x_t, t, text) with x_t (n, c, h, w), integer timesteps (n,), text (n, tokens, d)."""
        output = self.unet(x_t, timesteps, encoder_hidden_states=text).sample
        return self.to_noise(output, x_t, timesteps)

    def to_noise(
        self, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The model's raw output as a noise prediction."""
        kind = self.pipe.scheduler.config.prediction_type
        if kind == "epsilon":
            return output
        alpha, sigma = self.alpha_sigma(timesteps)
        if kind == "v_prediction":
            return alpha * output + sigma * x_t
        if kind == "sample":
            return (x_t - alpha * output) / sigma
        raise ModelError(f"prediction type {kind!r} is not supported yet")

    def encode_pictures(self, pictures: Pictures) -> torch.Tensor:
        """Latents x_0 (n, c, h, w) of pictures (n, s, s, 3) at the model's resolution."""
        vae = self.pipe.vae
        batch = torch.tensor(pictures).to(self.device, vae.dtype).permute(0, 3, 1, 2)
        latents = vae.encode(batch / 127.5 - 1).latent_dist.mode()
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return (latents - shift) * vae.config.scaling_factor

    def use_scheduler(self, name: str) -> None:
        """Change the sampler, keeping the noise schedule of the model."""
        if name == "default":
            return
        import diffusers  # noqa: PLC0415

        if name not in _SCHEDULERS:
            raise ConfigError(f"scheduler {name!r}: one of {', '.join(sorted(_SCHEDULERS))}")
        kind = getattr(diffusers, _SCHEDULERS[name])
        settings = _SETTINGS.get(name, {})
        self.pipe.scheduler = kind.from_config(self.pipe.scheduler.config, **settings)

    @torch.inference_mode()
    def draw(self, captions: Sequence[str], seeds: Sequence[int], how: Sampling) -> Pictures:
        """Draw one picture a (caption, seed); (n, h, w, 3) in 0..255.

        Each picture has its own CPU generator, so it does not depend on its neighbours but for
        the last bits of batched arithmetic.
        """
        own = self.pipe.scheduler
        self.use_scheduler(how.scheduler)
        try:
            result = self.pipe(
                prompt=list(captions),
                negative_prompt=[how.negative_prompt] * len(captions),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                num_inference_steps=how.steps,
                guidance_scale=how.guidance,
                output_type="np",
            ).images
        finally:
            self.pipe.scheduler = own
        pictures = np.nan_to_num(np.asarray(result, np.float32)).clip(0, 1)
        return (pictures * 255).round().astype(np.uint8)


@lru_cache(maxsize=2)
def _cached_model(folder: Path, fingerprint: str, device: str, dtype: str) -> DiffusionModel:
    del fingerprint  # a key only: another model in the same folder is another entry
    return DiffusionModel(load_pipeline(folder, device=device, dtype=getattr(torch, dtype)))


def load_model(
    folder: Path, *, fingerprint: str = "", device: str = "cpu", dtype: str = "float32"
) -> DiffusionModel:
    """Load a checked diffusers folder, once a process for each fingerprint.

    The cached model must not be changed; an eraser asks for one of its own with `fresh_model`.
    """
    return _cached_model(folder.resolve(), fingerprint, device, dtype)


def fresh_model(folder: Path, *, device: str = "cpu", dtype: str = "float32") -> DiffusionModel:
    """Load a model that the caller may change."""
    return DiffusionModel(load_pipeline(folder, device=device, dtype=getattr(torch, dtype)))
