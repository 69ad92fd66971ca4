"""Stable Diffusion 1 and 2 and their kin: a UNet that reads text-encoder states alone.

Latent consistency models are such a UNet too, told the guidance as a part of the time embedding
(Luo et al. 2023, section 4.2).
"""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.generation.adapters.base import LatentAdapter
from pipeline.generation.conditions import Conditions


class TextUNet(LatentAdapter):
    """A UNet2DConditionModel without added conditions."""

    required = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

    def check(self) -> None:
        """Raise ModelError unless the components' widths agree and the size is possible."""
        super().check()
        self.require_equal("the text encoders' width", self._expected_width(), self._width())

    def _expected_width(self) -> int:
        config = self.denoiser.config
        width = config.get("encoder_hid_dim") or config.cross_attention_dim
        return int(width if isinstance(width, int) else width[0])

    def _width(self) -> int:
        return int(self.pipe.text_encoder.config.hidden_size)

    @property
    def distilled(self) -> bool:
        """Whether the network is told the guidance."""
        return self.denoiser.config.get("time_cond_proj_dim") is not None

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.pipe.unet

    def encode(self, captions: Sequence[str], guidance: float) -> Conditions:
        """`text` (n, tokens, d), and `guidance` (n,) where the network is told it."""
        states, _ = self.pipe.encode_prompt(
            list(captions),
            self.pipe.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return Conditions({"text": states, **self.guided(states, guidance)})

    def guided(self, states: torch.Tensor, guidance: float) -> dict[str, torch.Tensor]:
        """The guidance, a row a row of `states`, where the network is told it."""
        return {"guidance": states.new_full((len(states),), guidance)} if self.distilled else {}

    def output(
        self, x_t: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """Raw output (n, c, h, w)."""
        told = {"encoder_hidden_states": conditions.tensor("text"), **self.added(conditions)}
        if self.distilled:
            told["timestep_cond"] = self._guidance(conditions)
        output: torch.Tensor = self.denoiser(x_t, timesteps, **told).sample
        return output

    def added(self, conditions: Conditions) -> dict[str, Any]:
        """What the network is told beside text and guidance."""
        del conditions
        return {}

    def _guidance(self, conditions: Conditions) -> torch.Tensor:
        weight = conditions.tensor("guidance").float().cpu() - 1  # diffusers embeds it on the CPU
        width = self.denoiser.config.time_cond_proj_dim
        embedded = self.pipe.get_guidance_scale_embedding(weight, embedding_dim=width)
        return embedded.to(self.pipe.device, self.denoiser.dtype)

    def told(self, text: Conditions, nothing: Conditions) -> dict[str, Any]:
        """Both conditions under the names of the pipeline's call."""
        return {
            "prompt_embeds": text.tensor("text"),
            "negative_prompt_embeds": nothing.tensor("text"),
        }
