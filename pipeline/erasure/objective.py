"""What one iteration adds to the gradient: a regression on examples, or a rule of its own."""

from collections.abc import Mapping
from typing import Protocol

import torch

from pipeline.erasure import carried
from pipeline.erasure.sources import Examples, Source
from pipeline.generation.backend import DiffusionModel

_ALPHA_MIN = 0.03  # schedules with zero terminal signal would divide by zero


class Objective(Protocol):
    """Something to descend on."""

    def accumulate(self, count: int, generator: torch.Generator) -> float:
        """Add the gradient of the loss on `count` examples to `.grad`; return the loss."""


class Regression:
    """scale · mean of w_t (ε_θ(x_t, c, t) - T)² over the examples of a source."""

    def __init__(
        self, model: DiffusionModel, source: Source, weighting: str, scale: float = 1.0
    ) -> None:
        self._model, self._source = model, source
        self._weighting, self._scale = weighting, scale

    def accumulate(self, count: int, generator: torch.Generator) -> float:
        """Descend on one batch; the loss returned is before `scale`."""
        loss = _error(self._model, self._source.draw(count, generator), self._weighting)
        (self._scale * loss).backward()
        return float(loss.detach())

    def carried(self) -> dict[str, torch.Tensor]:
        """What the source carries."""
        return carried.carried_by(self._source)

    def resume(self, of_source: Mapping[str, torch.Tensor]) -> None:
        """Give it back to the source."""
        carried.resume(self._source, of_source)


def level_weight(model: DiffusionModel, timesteps: torch.Tensor, weighting: str) -> torch.Tensor:
    """w_t (n, 1, 1, 1) of integer timesteps (n,): 1, or 1/α_t² for "velocity"."""
    alpha, _ = model.alpha_sigma(timesteps)
    if weighting == "velocity":
        return alpha.clamp_min(_ALPHA_MIN) ** -2
    return torch.ones_like(alpha)


def _error(model: DiffusionModel, examples: Examples, weighting: str) -> torch.Tensor:
    predicted = model.predict_noise(examples.x_t, examples.timesteps, examples.text)
    squares = (predicted - examples.target).square()
    squares = squares * level_weight(model, examples.timesteps, weighting)
    if examples.weight is not None:
        squares = squares * examples.weight.view(-1, 1, 1, 1)
    return squares.mean()
