"""Which weights of the UNet an eraser may change, and the frozen teacher they came from.

The groups are those of Gandikota et al. 2023, section 4.1: `x` reaches what a prompt retrieves,
`u` what the model draws whatever the prompt.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from pipeline.errors import ConfigError, ModelError

GROUPS: Mapping[str, Callable[[str], bool]] = {
    "x": lambda name: ".attn2." in name,
    "x-strict": lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name,
    "u": lambda name: ".attn2." not in name,
    "full": lambda _: True,
}


def select_parameters(unet: torch.nn.Module, group: str) -> dict[str, torch.nn.Parameter]:
    """Parameters of `unet` in a group, by name.

    Raises ConfigError for an unknown group, ModelError where the group is empty in this UNet.
    """
    if group not in GROUPS:
        raise ConfigError(f"parameters {group!r}: one of {', '.join(sorted(GROUPS))}")
    chosen = {name: tensor for name, tensor in unet.named_parameters() if GROUPS[group](name)}
    if not chosen:
        raise ModelError(f"{type(unet).__name__}: no parameter in group {group!r}; use 'full'")
    return chosen


class Teacher:
    """The model before training, kept as the original values of the trained tensors alone."""

    def __init__(self, trained: Mapping[str, torch.nn.Parameter]) -> None:
        self._trained = list(trained.values())
        self._originals = [tensor.detach().clone() for tensor in self._trained]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model is the frozen one and builds no graph."""
        students = [tensor.data for tensor in self._trained]
        for tensor, original in zip(self._trained, self._originals, strict=True):
            tensor.data = original
        try:
            with torch.no_grad():
                yield
        finally:
            for tensor, student in zip(self._trained, students, strict=True):
                tensor.data = student


@contextmanager
def trainable(unet: torch.nn.Module, trained: Mapping[str, torch.nn.Parameter]) -> Iterator[None]:
    """Within the block the `trained` tensors, and no others, take gradients."""
    before = [(tensor, tensor.requires_grad) for tensor in unet.parameters()]
    chosen = {id(tensor) for tensor in trained.values()}
    for tensor, _ in before:
        tensor.requires_grad_(id(tensor) in chosen)
    try:
        yield
    finally:
        for tensor, flag in before:
            tensor.requires_grad_(flag)
            tensor.grad = None
