"""What a method remembers from one iteration to the next, beside the weights that it trains."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Carries(Protocol):
    """A source or an objective with a memory of its own; most have none."""

    def carried(self) -> dict[str, torch.Tensor]:
        """What it remembers now, as tensors by name."""

    def resume(self, carried: Mapping[str, torch.Tensor]) -> None:
        """Remember what `carried` returned elsewhere, in place of what it does now."""


def carried_by(something: object) -> dict[str, torch.Tensor]:
    """What it carries, nothing where it has no memory."""
    return something.carried() if isinstance(something, Carries) else {}


def resume(something: object, carried: Mapping[str, torch.Tensor]) -> None:
    """Give it back what it carried."""
    if isinstance(something, Carries):
        something.resume(carried)
