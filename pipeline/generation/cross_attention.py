"""What a UNet's positions attend to among the words of the caption, read while it predicts.

For each cross-attention layer, with heads h:

    A = mean over h of softmax_tokens( q_h k_h^T scale + mask )        (n, positions, tokens)

Hooks compute A beside the network's own attention, in fp32, and leave that as it is: any batch,
head count and attention kernel. Nothing of size positions x tokens is kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.errors import ModelError


@dataclass(frozen=True)
class Layer:
    """One layer's attention: over tokens, (n, tokens), the mean over positions; and the attention
    that each position pays to the marked token of its caption, (n, positions)."""

    name: str
    over_tokens: torch.Tensor
    to_marked: torch.Tensor


class Recorded:
    """The layers of the last forward, in the order in which they were called."""

    def __init__(self, marked: torch.Tensor) -> None:
        self._marked = marked
        self._layers: list[Layer] = []

    def take(self) -> list[Layer]:
        """The layers since the last call, which are then forgotten."""
        taken, self._layers = self._layers, []
        return taken

    def add(self, name: str, attention: torch.Tensor) -> None:
        """Note attention (n, positions, tokens)."""
        marked = self._marked.to(attention.device)
        index = marked.view(-1, 1, 1).expand(-1, attention.shape[1], 1)
        to_marked = attention.gather(2, index).squeeze(2)
        self._layers.append(Layer(name, attention.mean(dim=1).cpu(), to_marked.cpu()))


@contextmanager
def recorded_attention(network: Any, marked: torch.Tensor) -> Iterator[Recorded]:
    """Record the forwards of `network`, with `marked` (n,) one token of each row's caption.

    Raises ModelError where the network has no cross-attention, or one that this does not know.
    """
    layers = cross_attention_layers(network)
    if not layers:
        raise ModelError(f"{type(network).__name__}: has no cross-attention")
    recorded = Recorded(marked)
    hooks = [
        module.register_forward_pre_hook(_hook(name, recorded), with_kwargs=True)
        for name, module in layers
    ]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def cross_attention_layers(network: Any) -> list[tuple[str, Any]]:
    """The layers by name, none where there are none; raises ModelError for another formula."""
    from diffusers.models.attention_processor import Attention  # noqa: PLC0415

    found = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, Attention) and module.is_cross_attention
    ]
    for _, module in found:
        # joint attention, as in SD3, adds keys of its own; normalized heads are other formulas
        if module.added_kv_proj_dim is not None or module.norm_q is not None:
            raise ModelError(f"{type(network).__name__}: its cross-attention cannot be read")
    return found


def _hook(name: str, recorded: Recorded) -> Any:
    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        text = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
        if text is None:  # a layer that could and does not: self-attention
            return
        mask = args[2] if len(args) > 2 else kwargs.get("attention_mask")
        recorded.add(name, attention_of(module, hidden, text, mask))

    return note


@torch.no_grad()
def attention_of(
    module: Any, hidden: torch.Tensor, text: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """A (n, positions, tokens) of a diffusers Attention.

    `hidden`: (n, positions, d) or (n, d, height, width); `text`: (n, tokens, d_text); `mask`: added
    to the logits, (n, 1 or positions, tokens).
    """
    if hidden.ndim == 4:
        hidden = hidden.flatten(2).transpose(1, 2)
    if module.group_norm is not None:
        hidden = module.group_norm(hidden.transpose(1, 2)).transpose(1, 2)
    if module.norm_cross:
        text = module.norm_encoder_hidden_states(text)
    query, key = (
        states.unflatten(2, (module.heads, -1)).transpose(1, 2).float()
        for states in (module.to_q(hidden), module.to_k(text))
    )
    logits = query @ key.transpose(2, 3) * module.scale
    if mask is not None:
        logits = logits + mask.unsqueeze(1).float()
    return logits.softmax(dim=-1).mean(dim=1)
