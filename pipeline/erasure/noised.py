"""ESD on the memorized picture itself, after Gandikota et al. 2023, section 5.4.

x_t = α_t x_0 + σ_t ε,        t uniform, ε unit Gaussian
"""

from collections.abc import Sequence

import torch

from pipeline.erasure.latents import GroupedLatents, noise_levels
from pipeline.erasure.parameters import Teacher
from pipeline.erasure.sources import Examples, Prompts, frozen_target
from pipeline.erasure.targets import Target
from pipeline.generation.backend import DiffusionModel


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
        missing = "esd-gt needs its picture; give one, or use esd"
        self._latents = GroupedLatents(model, targets, [t.pictures for t in targets], missing)
        self._model, self._teacher, self._prompts, self._eta = model, teacher, prompts, eta

    def draw(self, count: int, generator: torch.Generator) -> Examples:
        """Noise `count` pictures, each to a time step of its own."""
        model = self._model
        groups, captions = self._prompts.draw(count, generator)
        x_0 = self._latents.draw(groups, generator)
        timesteps, noise = noise_levels(model, x_0, generator)
        alpha, sigma = model.alpha_sigma(timesteps)
        x_t = alpha * x_0 + sigma * noise
        text = self._prompts.text[captions.to(model.device)]
        with self._teacher.in_place():
            target = frozen_target(model, x_t, timesteps, text, self._prompts.empty, self._eta)
        return Examples(x_t, timesteps, text, target)
