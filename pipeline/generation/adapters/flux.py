"""FLUX: a flow transformer that reads T5 states and CLIP's pooled state, on packed latents.

Packing makes a token of each 2 x 2 latent pixels: (n, c, h, w) becomes (n, hw/4, 4c), and the
network is told each token's place. FLUX dev is distilled: it is told the guidance and answers as
the guided model would, in one forward. It was not taught to answer without a caption, so there is
no unconditional branch; where one is asked for (a noise gap, `true_cfg`) it is the empty or
negative prompt under the same guidance, as in the pipeline of diffusers. FLUX schnell is told no
guidance at all.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline.generation.adapters.base import LatentAdapter
from pipeline.generation.adapters.flow_shift import dynamic_shift
from pipeline.generation.conditions import Conditions
from pipeline.generation.sampling import Sampling

_LATENT_SIDE = 128  # the pipeline's default; the network knows no size
_TIME = 1000  # what the network multiplies its time by


class Flux(LatentAdapter):
    """A FluxTransformer2DModel."""

    required = (
        *LatentAdapter.required,
        "transformer",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
    )
    patch = 2

    def check(self) -> None:
        """Raise ModelError unless the components' widths agree and the size is possible."""
        super().check()
        config, pipe = self.denoiser.config, self.pipe
        wanted, pooled = int(config.joint_attention_dim), int(config.pooled_projection_dim)
        clip, t5 = pipe.text_encoder.config, pipe.text_encoder_2.config
        self.require_equal("the width of text_encoder_2", wanted, int(t5.d_model))
        self.require_equal("the width of text_encoder", pooled, int(clip.hidden_size))

    @property
    def distilled(self) -> bool:
        """True: the pipeline guides by what the network is told, or not at all."""
        return True

    @property
    def denoiser(self) -> Any:
        """The transformer."""
        return self.pipe.transformer

    @property
    def _channels(self) -> int:
        return int(self.denoiser.config.in_channels) // 4

    def _default_size(self) -> tuple[int, int]:
        return _LATENT_SIDE, _LATENT_SIDE

    def encode(self, captions: Sequence[str], guidance: float) -> Conditions:
        """`text` (n, tokens, d), `pooled` (n, p), and `guidance` (n,) where it is told one."""
        states, pooled, _ = self.pipe.encode_prompt(list(captions), None, device=self.pipe.device)
        told = {"text": states, "pooled": pooled}
        if self._told_guidance:
            told["guidance"] = torch.full((len(states),), guidance, device=states.device)
        return Conditions(told)

    @property
    def _told_guidance(self) -> bool:
        return bool(self.denoiser.config.guidance_embeds)

    def output(
        self, x_t: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """Velocity (n, c, h, w)."""
        text = conditions.tensor("text")
        height, width = x_t.shape[2:]
        output = self.denoiser(
            hidden_states=pack(x_t),
            timestep=timesteps.to(x_t.dtype) / _TIME,
            guidance=conditions.tensor("guidance") if self._told_guidance else None,
            pooled_projections=conditions.tensor("pooled"),
            encoder_hidden_states=text,
            txt_ids=text.new_zeros(text.shape[1], 3),
            img_ids=places(height // 2, width // 2).to(text),
        ).sample
        return unpack(output, height, width)

    def start(self, scheduler: Any, steps: int) -> torch.Tensor:
        """Set the scheduler's time steps as the pipeline does, and return them."""
        _, height, width = self.latent_shape
        given: dict[str, Any] = {"mu": dynamic_shift(scheduler, height * width // 4)}
        if not scheduler.config.get("use_flow_sigmas"):
            given["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        if given.get("sigmas") is not None:
            scheduler.set_timesteps(device=self.pipe.device, **given)
        else:
            scheduler.set_timesteps(steps, device=self.pipe.device, **given)
        return scheduler.timesteps

    def arguments(
        self,
        captions: Sequence[str] | Conditions,
        generators: Sequence[torch.Generator],
        how: Sampling,
    ) -> dict[str, Any]:
        """Conditions of the captions, and of no caption where true guidance is asked for."""
        text = self.conditions(captions, how.guidance)
        given = {
            "prompt_embeds": text.tensor("text"),
            "pooled_prompt_embeds": text.tensor("pooled"),
            "latents": pack(self.noise(generators)),
        }
        if how.true_cfg <= 1:
            return given
        nothing = self.unconditioned(how.negative_prompt, how.guidance).expand_as(text)
        return given | {
            "true_cfg_scale": how.true_cfg,
            "negative_prompt_embeds": nothing.tensor("text"),
            "negative_pooled_prompt_embeds": nothing.tensor("pooled"),
        }


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Tokens (n, hw/4, 4c) of latents (n, c, h, w): channel, row and column within a token."""
    n, c, h, w = latents.shape
    tokens = latents.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return tokens.reshape(n, h * w // 4, 4 * c)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Latents (n, c, height, width) of tokens (n, hw/4, 4c)."""
    n, _, c = tokens.shape
    latents = tokens.reshape(n, height // 2, width // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(n, c // 4, height, width)


def places(height: int, width: int) -> torch.Tensor:
    """(0, row, column) of each of height x width tokens, (hw, 3)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
