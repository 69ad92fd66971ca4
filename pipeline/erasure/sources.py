"""Where the edited model is taught: noisy latents, the caption, and the noise to predict there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from pipeline.erasure import carried
from pipeline.erasure.esd import esd_target
from pipeline.generation.backend import DiffusionModel


@dataclass(frozen=True)
class Examples:
    """x_t (n, c, h, w), integer timesteps (n,), text (n, tokens, d), and the target like x_t.

    `weight` (n,) is of each example's squared error, None for 1.
    """

    x_t: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor | None = None


class Source(Protocol):
    """Something that gives examples to learn from."""

    def draw(self, count: int, generator: torch.Generator) -> Examples:
        """Return `count` examples, drawn with a CPU generator."""


class Prompts:
    """Embedded captions in groups; a draw takes a group, then one of its captions, uniformly."""

    def __init__(self, model: DiffusionModel, groups: Sequence[Sequence[str]]) -> None:
        with torch.no_grad():
            self.text = model.embed_text([caption for group in groups for caption in group])
            self.empty = model.embed_text([""])
        self._sizes = torch.tensor([len(group) for group in groups])
        self._starts = self._sizes.cumsum(0) - self._sizes

    def __len__(self) -> int:
        return len(self.text)

    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the indices of `count` groups and of a caption of each."""
        groups = torch.randint(len(self._sizes), (count,), generator=generator)
        return groups, self.of_groups(groups, generator)

    def of_groups(self, groups: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the index of a caption of each group (n,)."""
        return self._starts[groups] + pick(self._sizes[groups], generator)


def pick(sizes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a uniform index below each of `sizes` (n,)."""
    return (torch.rand(len(sizes), generator=generator, dtype=torch.float64) * sizes).long()


def frozen_target(
    model: DiffusionModel,
    x_t: torch.Tensor,
    timesteps: torch.Tensor,
    text: torch.Tensor,
    empty: torch.Tensor,
    eta: float,
) -> torch.Tensor:
    """Return the ESD target of the model as its weights stand."""
    both = torch.cat([empty.expand_as(text), text])
    noise = model.predict_noise(x_t.repeat(2, 1, 1, 1), timesteps.repeat(2), both)
    unconditional, conditional = noise.chunk(2)
    return esd_target(unconditional, conditional, eta)


class AlsoUnconditional:
    """Half of a source's examples, at random, under the empty prompt; their targets stay."""

    def __init__(self, source: Source, empty: torch.Tensor) -> None:
        self._source, self._empty = source, empty

    def draw(self, count: int, generator: torch.Generator) -> Examples:
        """Return `count` examples of the source, half of them without their caption."""
        examples = self._source.draw(count, generator)
        without = torch.rand(count, generator=generator) < 0.5
        without = without.to(self._empty.device).view(-1, 1, 1)
        return replace(examples, text=torch.where(without, self._empty, examples.text))

    def carried(self) -> dict[str, torch.Tensor]:
        """What the source carries."""
        return carried.carried_by(self._source)

    def resume(self, of_source: Mapping[str, torch.Tensor]) -> None:
        """Give it back to the source."""
        carried.resume(self._source, of_source)
