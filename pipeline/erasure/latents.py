"""The pictures of several targets as latents, drawn by target."""

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.erasure.sources import pick
from pipeline.erasure.targets import Pictures, Target
from pipeline.errors import InputError
from pipeline.generation.backend import DiffusionModel


class GroupedLatents:
    """Latents x_0 of a list of pictures a target; a draw takes one of a target, uniformly."""

    def __init__(
        self,
        model: DiffusionModel,
        targets: Sequence[Target],
        pictures: Sequence[Pictures],
        missing: str,
    ) -> None:
        """Raise InputError where a target has none, in the words `missing`, or of another size."""
        for target, own in zip(targets, pictures, strict=True):
            _check_pictures(target, own, model.resolution, missing)
        with torch.no_grad():
            self._latents = model.encode_pictures(np.concatenate(list(pictures)))
        self._device = model.device
        self._sizes = torch.tensor([len(own) for own in pictures])
        self._starts = self._sizes.cumsum(0) - self._sizes

    def draw(self, groups: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return x_0 (n, c, h, w) for the indices of targets (n,)."""
        return self.at(self.choose(groups, generator))

    def choose(self, groups: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the indices (n,) of a picture of each target, counted over all targets."""
        return self._starts[groups] + pick(self._sizes[groups], generator)

    def at(self, indices: torch.Tensor) -> torch.Tensor:
        """Return x_0 of pictures by their indices, (n, c, h, w)."""
        return self._latents[indices.to(self._device)]

    def of_group(self, group: int) -> torch.Tensor:
        """Return all x_0 of a target, (k, c, h, w)."""
        start = int(self._starts[group])
        return self._latents[start : start + int(self._sizes[group])]


def _check_pictures(target: Target, pictures: Pictures, resolution: int, missing: str) -> None:
    if not len(pictures):
        raise InputError(f"target {target.group_id}: {missing}")
    side = pictures.shape[1]
    if side != resolution:
        raise InputError(
            f"target {target.group_id}: pictures of {side} pixels, the model draws {resolution}; "
            "resize them"
        )


def noise_levels(
    model: DiffusionModel, x_0: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random timesteps (n,) and noise like x_0 (n, c, h, w), drawn on the CPU."""
    horizon = int(model.pipe.scheduler.config.num_train_timesteps)
    timesteps = torch.randint(horizon, (len(x_0),), generator=generator).to(model.device)
    return timesteps, torch.randn(x_0.shape, generator=generator).to(model.device)
