"""Stable Diffusion XL: a UNet that reads the states of two text encoders, the pooled state of the
second, and six numbers: the sizes of original and target and the corner of the crop (Podell et
al. 2023, section 2.2). Here the whole picture is drawn at its own size, as diffusers does.
"""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.generation.adapters.unet import TextUNet
from pipeline.generation.conditions import Conditions


class TextTimeUNet(TextUNet):
    """A UNet2DConditionModel with `text_time` conditions; the first text encoder may be missing."""

    required = ("unet", "vae", "text_encoder_2", "tokenizer_2", "scheduler")

    def _width(self) -> int:
        encoders = (self.pipe.text_encoder, self.pipe.text_encoder_2)
        return sum(int(encoder.config.hidden_size) for encoder in encoders if encoder is not None)

    def encode(self, captions: Sequence[str], guidance: float) -> Conditions:
        """`text` (n, tokens, d), `pooled` (n, p) and `sizes` (n, 6)."""
        states, _, pooled, _ = self.pipe.encode_prompt(
            list(captions), device=self.pipe.device, do_classifier_free_guidance=False
        )
        height, width = self.pixels
        sizes = states.new_tensor([height, width, 0, 0, height, width]).expand(len(states), -1)
        told = {"text": states, "pooled": pooled, "sizes": sizes}
        return Conditions({**told, **self.guided(states, guidance)})

    def unconditioned(self, negative_prompt: str, guidance: float) -> Conditions:
        """One row; zeros for no negative prompt where the model was trained on them."""
        nothing = self.encode([negative_prompt], guidance)
        if negative_prompt or not self.pipe.config.get("force_zeros_for_empty_prompt"):
            return nothing
        zeros = {name: torch.zeros_like(nothing.tensor(name)) for name in ("text", "pooled")}
        return Conditions({**nothing.tensors, **zeros})

    def added(self, conditions: Conditions) -> dict[str, Any]:
        """The pooled state and the sizes."""
        pooled, sizes = conditions.tensor("pooled"), conditions.tensor("sizes")
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}

    def told(self, text: Conditions, nothing: Conditions) -> dict[str, Any]:
        """Both conditions under the names of the pipeline's call."""
        return {
            **super().told(text, nothing),
            "pooled_prompt_embeds": text.tensor("pooled"),
            "negative_pooled_prompt_embeds": nothing.tensor("pooled"),
        }
