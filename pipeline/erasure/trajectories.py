"""Noisy latents that a model meets while it draws a caption, each aligned with its time step.

Gandikota et al. 2023, section 4, teach the edited model on partly denoised samples of itself,
drawn with guidance 3: `EditedTrajectories`, which pays a sampling run for every batch. Drawing
them once from the frozen model, and keeping every step, costs one run in all:
`FrozenTrajectories`. Guided noise is ε(∅) + w [ε(c) - ε(∅)]; the sampler is DDIM without added
noise (Song et al. 2021, equation 12).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.erasure.esd import esd_target
from pipeline.erasure.parameters import Teacher
from pipeline.erasure.sources import Examples, Prompts, frozen_target
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.seeds import gaussian
from pipeline.ids import hash63

_CHUNK = 32


@dataclass(frozen=True)
class Walk:
    """How trajectories are drawn."""

    steps: int = 25
    guidance: float = 3.0


@dataclass(frozen=True)
class Point:
    """One step of a trajectory: x_t and both noise predictions (n, c, h, w), timesteps (n,)."""

    x_t: torch.Tensor
    timesteps: torch.Tensor
    unconditional: torch.Tensor
    conditional: torch.Tensor


@torch.no_grad()
def denoise(
    model: DiffusionModel, x_t: torch.Tensor, text: torch.Tensor, empty: torch.Tensor, walk: Walk
) -> Iterator[Point]:
    """Walk from pure noise x_t (n, c, h, w) towards pictures of text (n, tokens, d)."""
    scheduler = _ddim(model)
    scheduler.set_timesteps(walk.steps, device=model.device)
    both = torch.cat([empty.expand_as(text), text])
    for step in scheduler.timesteps:
        timesteps = step.expand(len(x_t))
        output = model.unet(x_t.repeat(2, 1, 1, 1), step, encoder_hidden_states=both).sample
        unconditional, conditional = output.chunk(2)
        yield Point(
            x_t,
            timesteps,
            model.to_noise(unconditional, x_t, timesteps),
            model.to_noise(conditional, x_t, timesteps),
        )
        guided = unconditional + walk.guidance * (conditional - unconditional)
        x_t = scheduler.step(guided, step, x_t).prev_sample


def _ddim(model: DiffusionModel) -> Any:
    from diffusers import DDIMScheduler  # noqa: PLC0415  slow to import

    config = model.pipe.scheduler.config
    return DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)


class FrozenTrajectories:
    """Every step of trajectories that the model draws before it is edited."""

    def __init__(
        self,
        model: DiffusionModel,
        prompts: Prompts,
        *,
        eta: float,
        walk: Walk,
        each: int,
        seed: int,
    ) -> None:
        """Draw `each` trajectories of every prompt with the model as its weights stand."""
        self._prompts, self._each = prompts, each
        which = torch.arange(len(prompts)).repeat_interleave(each)
        seeds = [hash63("trajectory", seed, number) for number in range(len(which))]
        noise = gaussian(model.latent_shape, seeds).to(model.device)
        text = prompts.text[which.to(model.device)]
        walks = [
            list(denoise(model, x_t, captions, prompts.empty, walk))
            for x_t, captions in zip(noise.split(_CHUNK), text.split(_CHUNK), strict=True)
        ]
        steps = [_join(points) for points in zip(*walks, strict=True)]
        self._timesteps = torch.stack([step.timesteps[0] for step in steps])
        self._x_t = torch.stack([step.x_t for step in steps])
        self._target = torch.stack(
            [esd_target(step.unconditional, step.conditional, eta) for step in steps]
        )

    def draw(self, count: int, generator: torch.Generator) -> Examples:
        """Take `count` points at random steps of random trajectories."""
        device = self._x_t.device
        _, which = self._prompts.draw(count, generator)
        path = which * self._each + torch.randint(self._each, (count,), generator=generator)
        step = torch.randint(len(self._timesteps), (count,), generator=generator)
        path, step, which = path.to(device), step.to(device), which.to(device)
        return Examples(
            self._x_t[step, path],
            self._timesteps[step],
            self._prompts.text[which],
            self._target[step, path],
        )


def _join(points: Sequence[Point]) -> Point:
    return Point(
        torch.cat([point.x_t for point in points]),
        torch.cat([point.timesteps for point in points]),
        torch.cat([point.unconditional for point in points]),
        torch.cat([point.conditional for point in points]),
    )


class EditedTrajectories:
    """Partly denoised samples of the model as it is being edited; all stop at one random step."""

    def __init__(
        self, model: DiffusionModel, teacher: Teacher, prompts: Prompts, *, eta: float, walk: Walk
    ) -> None:
        self._model, self._teacher, self._prompts = model, teacher, prompts
        self._eta, self._walk = eta, walk

    def draw(self, count: int, generator: torch.Generator) -> Examples:
        """Draw `count` captions up to the same step."""
        model, empty = self._model, self._prompts.empty
        _, which = self._prompts.draw(count, generator)
        text = self._prompts.text[which.to(model.device)]
        stop = int(torch.randint(self._walk.steps, (1,), generator=generator))
        noise = torch.randn((count, *model.latent_shape), generator=generator).to(model.device)
        walk = denoise(model, noise, text, empty, self._walk)
        point = next(point for number, point in enumerate(walk) if number == stop)
        with self._teacher.in_place():
            target = frozen_target(model, point.x_t, point.timesteps, text, empty, self._eta)
        return Examples(point.x_t, point.timesteps, text, target)
