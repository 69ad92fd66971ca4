"""Hide the tokens after a caption from cross-attention (Ren et al. 2024, "Unveiling and Mitigating
Memorization in Text-to-image Diffusion Models through Cross Attention", section 5).

    A = softmax_tokens( c_j q k_j^T scale + m_j )

m_j is -∞ for the summary tokens, the padding after the caption's end token (and that one, if
asked for), and 0 for the others; c_j is c for the first token and 1 for the others. Predictions
without a caption are left as they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.errors import ModelError
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.cross_attention import cross_attention_layers
from pipeline.generation.network import caption_lengths
from pipeline.mitigation.options import AttentionOptions


class Summary:
    """m and c of a batch of captions."""

    def __init__(self, lengths: torch.Tensor, tokens: int, options: AttentionOptions) -> None:
        """`lengths` (n,) counts the tokens of each caption, its start and end token among them."""
        last = lengths - 1 if options.end else lengths
        hidden = torch.arange(tokens) >= last.unsqueeze(1)
        self._mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
        self._scale = torch.ones(hidden.shape)
        self._scale[:, 0] = options.first

    def rows(self, batch: int, *, guided: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """m and c, both (batch, tokens), of a batch that a network is given.

        Guided, its first half is without captions. The pictures of a caption lie side by side.
        Raises ModelError where the batch is not one of these captions.
        """
        captions = len(self._mask)
        each, rest = divmod(batch, captions * (2 if guided else 1))
        if rest or not each:
            raise ModelError(f"a batch of {batch} for the attention masks of {captions} captions")
        mask, scale = (x.repeat_interleave(each, dim=0) for x in (self._mask, self._scale))
        if not guided:
            return mask, scale
        return torch.cat([torch.zeros_like(mask), mask]), torch.cat([torch.ones_like(scale), scale])


class SummaryMasked:
    """An attention processor of diffusers, around the one that a layer has.

    The first token's logit is scaled through its key: q (c k) = c (q k).
    """

    def __init__(self, inner: Any, summary: Summary, pipe: Any) -> None:
        self.inner, self._summary, self._pipe = inner, summary, pipe

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """As the processor inside, whose attention it changes."""
        if encoder_hidden_states is None:  # a layer that could and does not: self-attention
            return self.inner(attn, hidden_states, None, attention_mask, *args, **kwargs)
        guided = bool(self._pipe.do_classifier_free_guidance)
        mask, scale = (
            rows.to(hidden_states) for rows in self._summary.rows(len(hidden_states), guided=guided)
        )
        if mask.shape[1] != encoder_hidden_states.shape[1]:
            count = encoder_hidden_states.shape[1]
            raise ModelError(f"attention masks of {mask.shape[1]} tokens for {count}")
        mask = mask.unsqueeze(1) if attention_mask is None else attention_mask + mask.unsqueeze(1)
        keys = attn.to_k.register_forward_hook(lambda _module, _args, k: k * scale.unsqueeze(2))
        try:
            return self.inner(attn, hidden_states, encoder_hidden_states, mask, *args, **kwargs)
        finally:
            keys.remove()


def processors(
    model: DiffusionModel, captions: Sequence[str], options: AttentionOptions
) -> dict[str, Any]:
    """What `set_attn_processor` of the model's UNet takes, for drawing these captions.

    Raises ModelError for an architecture other than a UNet that reads CLIP's tokens.
    """
    network = model.adapter.denoiser
    if not hasattr(network, "attn_processors") or getattr(model.pipe, "unet", None) is None:
        raise ModelError(f"{type(network).__name__}: its attention cannot be masked")
    layers = dict(cross_attention_layers(network))
    if any(getattr(layer, "fused_projections", False) for layer in layers.values()):
        raise ModelError(f"{type(network).__name__}: unfuse its projections to mask its attention")
    lengths = caption_lengths(model, captions)
    tokens = int(model.pipe.tokenizer.model_max_length)
    summary = Summary(lengths, tokens, options)
    return {
        name: SummaryMasked(_unmasked(own), summary, model.pipe)
        if name.removesuffix(".processor") in layers
        else own
        for name, own in network.attn_processors.items()
    }


def _unmasked(processor: Any) -> Any:
    """The processor inside, where the layer has masks of other captions already."""
    return processor.inner if isinstance(processor, SummaryMasked) else processor


@contextmanager
def masked_attention(
    model: DiffusionModel, captions: Sequence[str], options: AttentionOptions
) -> Iterator[None]:
    """Draw captions in here, and none other, with their summary tokens hidden."""
    network = model.adapter.denoiser
    own = dict(network.attn_processors) if hasattr(network, "attn_processors") else {}
    network.set_attn_processor(processors(model, captions, options))
    try:
        yield
    finally:
        network.set_attn_processor(own)
