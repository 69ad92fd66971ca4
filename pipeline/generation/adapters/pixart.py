"""PixArt-α and -Σ: a diffusion transformer that reads T5 states with their mask.

The largest PixArt-α is told size and shape of the picture as well (Chen et al. 2024). Its network
predicts noise and a variance, of which samplers use the noise alone.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.generation.adapters.base import LatentAdapter
from pipeline.generation.conditions import Conditions


class PixArt(LatentAdapter):
    """A PixArtTransformer2DModel. Captions are read as they are, whatever packages are there."""

    required = ("transformer", "vae", "scheduler", "text_encoder", "tokenizer")

    def __init__(self, pipe: Any, resolution: int | None = None) -> None:
        self.patch = int(pipe.transformer.config.patch_size) if pipe.transformer else 1
        super().__init__(pipe, resolution)

    def check(self) -> None:
        """Raise ModelError unless the components' widths agree and the size is possible."""
        super().check()
        wanted = int(self.denoiser.config.caption_channels)
        found = int(self.pipe.text_encoder.config.d_model)
        self.require_equal("the text encoder's width", wanted, found)

    @property
    def denoiser(self) -> Any:
        """The transformer."""
        return self.pipe.transformer

    def encode(self, captions: Sequence[str], guidance: float) -> Conditions:
        """`text` (n, tokens, d), `mask` (n, tokens), and `sizes` (n, 3) where it is told them."""
        del guidance
        longest = inspect.signature(type(self.pipe).__call__).parameters["max_sequence_length"]
        states, mask, _, _ = self.pipe.encode_prompt(
            list(captions),
            do_classifier_free_guidance=False,
            device=self.pipe.device,
            clean_caption=False,
            max_sequence_length=longest.default,
        )
        told = {"text": states, "mask": mask}
        if self._told_sizes:
            height, width = self.pixels
            sizes = states.new_tensor([height, width, height / width])
            told["sizes"] = sizes.expand(len(states), -1)
        return Conditions(told)

    @property
    def _told_sizes(self) -> bool:
        return bool(self.denoiser.use_additional_conditions)

    def output(
        self, x_t: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """Noise (n, c, h, w)."""
        added: dict[str, torch.Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self._told_sizes:
            sizes = conditions.tensor("sizes")
            added = {"resolution": sizes[:, :2], "aspect_ratio": sizes[:, 2:]}
        output: torch.Tensor = self.denoiser(
            x_t,
            encoder_hidden_states=conditions.tensor("text"),
            encoder_attention_mask=conditions.tensor("mask"),
            timestep=timesteps,
            added_cond_kwargs=added,
        ).sample
        return output[:, : x_t.shape[1]]

    def told(self, text: Conditions, nothing: Conditions) -> dict[str, Any]:
        """Both conditions under the names of the pipeline's call."""
        return {
            "prompt_embeds": text.tensor("text"),
            "prompt_attention_mask": text.tensor("mask"),
            "negative_prompt": None,
            "negative_prompt_embeds": nothing.tensor("text"),
            "negative_prompt_attention_mask": nothing.tensor("mask"),
            "use_resolution_binning": False,
        }
