"""What every architecture answers: sizes, conditions, one forward pass, and how it is drawn.

An adapter knows one architecture and nothing of noise schedules, batches or guidance. This one
draws with any text-to-image pipeline of diffusers and predicts nothing; the others override what
their networks have more.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.generation.conditions import Conditions
from pipeline.generation.sampling import Sampling


class Adapter:
    """A text-to-image pipeline that is drawn from by captions alone."""

    unconditional = False
    """Whether it draws without captions."""
    required: tuple[str, ...] = ()
    """Components that it cannot do without."""
    patch = 1
    """Latent pixels on a side of a token; a picture is a whole number of them."""

    def __init__(self, pipe: Any, resolution: int | None = None) -> None:
        """Raise ModelError where a component is missing or does not fit the others."""
        self.pipe = pipe
        self._resolution = resolution
        for name in self.required:
            if getattr(pipe, name, None) is None:
                raise ModelError(f"{self.name}: has no {name}; fetch the whole model")
        self.check()

    @property
    def name(self) -> str:
        """The pipeline's class."""
        return type(self.pipe).__name__

    def check(self) -> None:
        """Raise ModelError unless the components' widths agree and the size is possible."""
        parameters = inspect.signature(type(self.pipe).__call__).parameters
        if "image" in parameters or "prompt" not in parameters:
            raise ModelError(f"{self.name}: does not draw from a caption alone")

    @property
    def distilled(self) -> bool:
        """Whether guidance is told to the network, so that one forward is guided."""
        return False

    # Sizes.

    @property
    def denoiser(self) -> Any:
        """The network that predicts noise."""
        self.refuse()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of x_t."""
        self.refuse()

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width of the pictures; None where the pipeline decides."""
        return None if self._resolution is None else (self._resolution, self._resolution)

    # Noise prediction.

    def conditions(self, captions: Sequence[str] | Conditions, guidance: float) -> Conditions:
        """What the network is told for captions, each embedded once however often it occurs.

        Conditions in their place are taken as they are.
        """
        if isinstance(captions, Conditions):
            return captions
        distinct = list(dict.fromkeys(captions))
        place = {caption: row for row, caption in enumerate(distinct)}
        rows = torch.tensor([place[caption] for caption in captions])
        encoded = self.encode(distinct, guidance)
        return encoded[rows.to(self.pipe.device)]

    def encode(self, captions: Sequence[str], guidance: float) -> Conditions:
        """`conditions` of captions that are all different."""
        self.refuse()

    def unconditioned(self, negative_prompt: str, guidance: float) -> Conditions:
        """What the network is told where it is told nothing, one row."""
        return self.encode([negative_prompt], guidance)

    def output(
        self, x_t: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """Raw output (n, c, h, w) of the network at x_t (n, c, h, w) and timesteps (n,)."""
        self.refuse()

    def refuse(self) -> NoReturn:
        """Raise ModelError: there is no noise prediction for this architecture."""
        raise ModelError(f"{self.name}: noise prediction is not supported; it can only be drawn")

    def start(self, scheduler: Any, steps: int) -> torch.Tensor:
        """Set the scheduler's time steps as the pipeline does, and return them."""
        scheduler.set_timesteps(steps, device=self.pipe.device)
        return scheduler.timesteps

    def to_latents(self, pixels: torch.Tensor) -> torch.Tensor:
        """x_0 (n, c, h, w) of pictures (n, 3, h, w) in -1..1."""
        self.refuse()

    # Drawing.

    def draw(
        self,
        captions: Sequence[str] | Conditions,
        generators: Sequence[torch.Generator],
        how: Sampling,
    ) -> npt.NDArray[np.float32]:
        """One picture a caption, (n, h, w, 3) in 0..1, with a CPU generator of its own."""
        arguments = {
            **self.arguments(captions, generators, how),
            "generator": list(generators),
            "num_inference_steps": how.steps,
            "guidance_scale": how.guidance,
            "output_type": "np",
        }
        if self.pixels is not None:
            arguments["height"], arguments["width"] = self.pixels
        taken = inspect.signature(type(self.pipe).__call__).parameters
        known = {name: value for name, value in arguments.items() if name in taken}
        return np.asarray(self.pipe(**known).images, np.float32)

    def arguments(
        self,
        captions: Sequence[str] | Conditions,
        generators: Sequence[torch.Generator],
        how: Sampling,
    ) -> dict[str, Any]:
        """What this pipeline's call is given beside what all take."""
        del generators
        if isinstance(captions, Conditions):
            self.refuse()
        return {
            "prompt": list(captions),
            "negative_prompt": [how.negative_prompt] * len(captions),
        }

    # Help for the checks of the others.

    def require_equal(self, what: str, expected: int, found: int) -> None:
        """Raise ModelError where two components differ in a width."""
        if expected != found:
            raise ModelError(f"{self.name}: {what} is {found}, its network wants {expected}")


class LatentAdapter(Adapter):
    """A text-to-image pipeline whose network works on the latents of a VAE."""

    required: tuple[str, ...] = ("vae", "scheduler")

    def check(self) -> None:
        """Raise ModelError where widths do not agree, ConfigError for an impossible size."""
        super().check()
        self.require_equal("the VAE's latent_channels", self._channels, self._vae_channels)
        step = self.patch * int(self.pipe.vae_scale_factor)
        for side in self.pixels:
            if side % step or side < step:
                raise ConfigError(
                    f"model.resolution {side}: {self.name} wants a multiple of {step}"
                )

    @property
    def _channels(self) -> int:
        return int(self.denoiser.config.in_channels)

    @property
    def _vae_channels(self) -> int:
        return int(self.pipe.vae.config.latent_channels)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of x_t."""
        if self._resolution is not None:
            side = self._resolution // int(self.pipe.vae_scale_factor)
            return self._channels, side, side
        return self._channels, *self._default_size()

    def _default_size(self) -> tuple[int, int]:
        """Height and width of the latents that the network was trained on."""
        size = self.denoiser.config.sample_size
        if size is None:
            raise ConfigError(f"{self.name}: its size is not known; set model.resolution")
        height, width = (size, size) if isinstance(size, int) else size
        return int(height), int(width)

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        scale = int(self.pipe.vae_scale_factor)
        if self._resolution is not None:
            return self._resolution, self._resolution
        _, height, width = self.latent_shape
        return height * scale, width * scale

    def to_latents(self, pixels: torch.Tensor) -> torch.Tensor:
        """x_0 (n, c, h, w) of pictures (n, 3, h, w) in -1..1, scaled as the network wants them."""
        vae, config = self.pipe.vae, self.pipe.vae.config
        latents = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            mean, std = (latents.new_tensor(value).view(1, -1, 1, 1) for value in (mean, std))
            return (latents - mean) / std * config.scaling_factor
        return (latents - (config.get("shift_factor") or 0.0)) * config.scaling_factor

    def noise(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Unit Gaussian noise (n, c, h, w) of CPU generators, which it moves on.

        It is drawn in fp32, so that a seed begins with the same noise in every precision.
        """
        noise = torch.stack([torch.randn(self.latent_shape, generator=g) for g in generators])
        return noise.to(self.pipe.device, self.denoiser.dtype)

    def arguments(
        self,
        captions: Sequence[str] | Conditions,
        generators: Sequence[torch.Generator],
        how: Sampling,
    ) -> dict[str, Any]:
        """Conditions, each caption embedded once and the unconditional ones once for all."""
        text = self.conditions(captions, how.guidance)
        nothing = self.unconditioned(how.negative_prompt, how.guidance).expand(len(captions))
        return {**self.told(text, nothing), "latents": self.noise(generators)}

    def told(self, text: Conditions, nothing: Conditions) -> dict[str, Any]:
        """Both conditions under the names of the pipeline's call."""
        del text, nothing
        self.refuse()
