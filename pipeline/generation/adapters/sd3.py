"""Stable Diffusion 3: a multimodal transformer that reads two CLIP encoders and T5.

The CLIP states are set side by side, padded with zeros to the width of T5's, and T5's tokens
follow; the pooled states of both CLIPs are the second condition (Esser et al. 2024, figure 2). The
model was trained with each encoder left out at random, so one that a folder lacks is zeros.
"""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.errors import ModelError
from pipeline.generation.adapters.base import LatentAdapter
from pipeline.generation.adapters.flow_shift import dynamic_shift
from pipeline.generation.conditions import Conditions

_CLIP_TOKENS = 77
_T5_TOKENS = 256  # as the pipeline's own call
_MAX_SHIFT = 1.16


class SD3(LatentAdapter):
    """An SD3Transformer2DModel; any of its three text encoders may be missing."""

    required = ("transformer", "vae", "scheduler")

    def __init__(self, pipe: Any, resolution: int | None = None) -> None:
        self.patch = int(pipe.transformer.config.patch_size) if pipe.transformer else 1
        super().__init__(pipe, resolution)

    def check(self) -> None:
        """Raise ModelError unless the components' widths agree and the size is possible."""
        super().check()
        config, t5 = self.denoiser.config, self.pipe.text_encoder_3
        if t5 is not None:
            wanted = int(config.joint_attention_dim)
            self.require_equal("the width of text_encoder_3", wanted, int(t5.config.d_model))
        self._clip_widths()
        for number in ("", "_2", "_3"):
            encoder = getattr(self.pipe, f"text_encoder{number}")
            if encoder is not None and getattr(self.pipe, f"tokenizer{number}") is None:
                raise ModelError(f"{self.name}: has no tokenizer{number}; fetch the whole model")

    @property
    def denoiser(self) -> Any:
        """The transformer."""
        return self.pipe.transformer

    def encode(self, captions: Sequence[str], guidance: float) -> Conditions:
        """`text` (n, tokens, d) and `pooled` (n, p)."""
        del guidance
        clips = [self._clip(captions, number) for number in (0, 1)]
        t5 = self._t5(captions)
        states = torch.cat([states for states, _ in clips], dim=-1)
        states = torch.nn.functional.pad(states, (0, t5.shape[-1] - states.shape[-1]))
        pooled = torch.cat([pooled for _, pooled in clips], dim=-1)
        return Conditions({"text": torch.cat([states, t5], dim=1), "pooled": pooled})

    def _clip(self, captions: Sequence[str], number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """States (n, tokens, d) and pooled state (n, p) of one CLIP."""
        suffix = ("", "_2")[number]
        encoder = getattr(self.pipe, f"text_encoder{suffix}")
        words = self.pipe.tokenizer or self.pipe.tokenizer_2
        tokens = int(words.model_max_length) if words is not None else _CLIP_TOKENS
        if encoder is None:
            width = self._clip_widths()[number]
            return self._zeros(len(captions), tokens, width), self._zeros(len(captions), width)
        ids = self._ids(getattr(self.pipe, f"tokenizer{suffix}"), captions, tokens)
        output = encoder(ids, output_hidden_states=True)
        return output.hidden_states[-2], output[0]

    def _clip_widths(self) -> tuple[int, int]:
        """Widths of both pooled states; that of a missing CLIP is what the network has left."""
        total = int(self.denoiser.config.pooled_projection_dim)
        encoders = (self.pipe.text_encoder, self.pipe.text_encoder_2)
        known = [None if e is None else int(e.config.projection_dim) for e in encoders]
        first, second = known
        if first is None and second is None:
            return total // 2, total - total // 2
        widths = (
            total - second if first is None and second is not None else first or 0,
            total - first if second is None and first is not None else second or 0,
        )
        self.require_equal("the pooled width of the text encoders", total, sum(widths))
        if min(widths) < 1:
            raise ModelError(f"{self.name}: its network wants {total} pooled numbers, not {known}")
        return widths

    def _t5(self, captions: Sequence[str]) -> torch.Tensor:
        if self.pipe.text_encoder_3 is None:
            width = int(self.denoiser.config.joint_attention_dim)
            return self._zeros(len(captions), _T5_TOKENS, width)
        ids = self._ids(self.pipe.tokenizer_3, captions, _T5_TOKENS)
        states: torch.Tensor = self.pipe.text_encoder_3(ids)[0]
        return states.to(self.denoiser.dtype)

    def _ids(self, tokenizer: Any, captions: Sequence[str], tokens: int) -> torch.Tensor:
        padded = tokenizer(
            list(captions),
            padding="max_length",
            max_length=tokens,
            truncation=True,
            return_tensors="pt",
        )
        return padded.input_ids.to(self.pipe.device)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=self.pipe.device, dtype=self.denoiser.dtype)

    def output(
        self, x_t: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """Velocity (n, c, h, w)."""
        output: torch.Tensor = self.denoiser(
            hidden_states=x_t,
            timestep=timesteps,
            encoder_hidden_states=conditions.tensor("text"),
            pooled_projections=conditions.tensor("pooled"),
        ).sample
        return output

    def start(self, scheduler: Any, steps: int) -> torch.Tensor:
        """Set the scheduler's time steps as the pipeline does, and return them."""
        shift = {}
        if scheduler.config.get("use_dynamic_shifting"):
            _, height, width = self.latent_shape
            tokens = (height // self.patch) * (width // self.patch)
            shift["mu"] = dynamic_shift(scheduler, tokens, max_shift=_MAX_SHIFT)
        scheduler.set_timesteps(steps, device=self.pipe.device, **shift)
        return scheduler.timesteps

    def told(self, text: Conditions, nothing: Conditions) -> dict[str, Any]:
        """Both conditions under the names of the pipeline's call."""
        return {
            "prompt_embeds": text.tensor("text"),
            "pooled_prompt_embeds": text.tensor("pooled"),
            "negative_prompt_embeds": nothing.tensor("text"),
            "negative_pooled_prompt_embeds": nothing.tensor("pooled"),
        }
