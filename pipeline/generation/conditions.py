"""What a denoiser is told about each picture of a batch, whatever its architecture reads.

Stable Diffusion reads text-encoder states alone; SDXL a pooled state and sizes as well, SD3 and
FLUX a pooled state, FLUX its guidance, PixArt a mask. All are tensors with a row a picture, and
are taken, repeated and joined together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.errors import ModelError


@dataclass(frozen=True, eq=False)
class Conditions:
    """Tensors by name, each (n, ...) for n pictures; none for a model that is told nothing."""

    tensors: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        if len({len(tensor) for tensor in self.tensors.values()}) > 1:
            shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
            raise ModelError(f"conditions of different lengths: {shapes}")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values()), ()))

    def __getitem__(self, rows: slice | torch.Tensor) -> "Conditions":
        """The rows of a slice, of an index (m,) or of a mask (n,)."""
        return Conditions({name: tensor[rows] for name, tensor in self.tensors.items()})

    def tensor(self, name: str) -> torch.Tensor:
        """One of the tensors; raises ModelError where the batch was not given it."""
        if name not in self.tensors:
            given = ", ".join(self.tensors) or "nothing"
            raise ModelError(f"the network reads {name!r} and was given {given}")
        return self.tensors[name]

    def expand(self, count: int) -> "Conditions":
        """A single row `count` times, without a copy."""
        return Conditions(
            {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in self.tensors.items()}
        )

    def expand_as(self, other: "Conditions") -> "Conditions":
        """A single row as often as `other` has rows."""
        return self.expand(len(other))

    def split(self, size: int) -> list["Conditions"]:
        """Blocks of `size` rows, the last one shorter."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    @staticmethod
    def cat(parts: Sequence["Conditions"]) -> "Conditions":
        """All rows of several batches of one model."""
        names = parts[0].tensors
        return Conditions(
            {name: torch.cat([part.tensor(name) for part in parts]) for name in names}
        )
