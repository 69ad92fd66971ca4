"""Where the edited model is taught: noisy latents, the caption, and the noise to predict there.

Two sources sample the latents (`pipeline.erasure.trajectories`). This one uses the memorized
picture itself, after Gandikota et al. 2023, section 5.4:

    x_t = α_t x_0 + σ_t ε,        t uniform, ε unit Gaussian
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from pipeline.erasure.esd import esd_target
from pipeline.erasure.parameters import Teacher
from pipeline.erasure.targets import Target
from pipeline.errors import InputError
from pipeline.generation.backend import DiffusionModel


@dataclass(frozen=True)
class Examples:
    """x_t (n, c, h, w), integer timesteps (n,), text (n, tokens, d), and the target like x_t."""

    x_t: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    target: torch.Tensor


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
        return groups, self._starts[groups] + pick(self._sizes[groups], generator)


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


class NoisedPictures:
    """Forward-noised training pictures of the targets, under any of their captions."""

    def __init__(
        self,
        model: DiffusionModel,
        teacher: Teacher,
        targets: Sequence[Target],
        prompts: Prompts,
        *,
        eta: float,
    ) -> None:
        """Encode the pictures; raise InputError where a target has none, or of another size."""
        for target in targets:
            _check_pictures(target, model.resolution)
        self._model, self._teacher, self._prompts, self._eta = model, teacher, prompts, eta
        with torch.no_grad():
            self._latents = model.encode_pictures(np.concatenate([t.pictures for t in targets]))
        self._sizes = torch.tensor([len(target.pictures) for target in targets])
        self._starts = self._sizes.cumsum(0) - self._sizes

    def draw(self, count: int, generator: torch.Generator) -> Examples:
        """Noise `count` pictures, each to a time step of its own."""
        model = self._model
        groups, captions = self._prompts.draw(count, generator)
        pictures = self._starts[groups] + pick(self._sizes[groups], generator)
        x_0 = self._latents[pictures.to(model.device)]
        horizon = int(model.pipe.scheduler.config.num_train_timesteps)
        timesteps = torch.randint(horizon, (count,), generator=generator).to(model.device)
        noise = torch.randn(x_0.shape, generator=generator).to(model.device)
        alpha, sigma = model.alpha_sigma(timesteps)
        x_t = alpha * x_0 + sigma * noise
        text = self._prompts.text[captions.to(model.device)]
        with self._teacher.in_place():
            target = frozen_target(model, x_t, timesteps, text, self._prompts.empty, self._eta)
        return Examples(x_t, timesteps, text, target)


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


def _check_pictures(target: Target, resolution: int) -> None:
    if not len(target.pictures):
        raise InputError(
            f"target {target.group_id}: esd-gt needs its picture; give one, or use esd"
        )
    side = target.pictures.shape[1]
    if side != resolution:
        raise InputError(
            f"target {target.group_id}: pictures of {side} pixels, the model draws {resolution}; "
            "resize them"
        )
