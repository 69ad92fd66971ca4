"""One trainer for every eraser.

    L = w_t ||ε_θ(x_t, c, t) - T||² + ρ w_t ||ε_θ(x_t', c', t') - ε*(x_t', c', t')||²

The first term erases: where x_t comes from and what T is make the method. The second retains: on
other captions c' the edited model θ stays the frozen model *. Norms are means over elements, and
predictions are noise, whatever the model was trained to predict.

Weighting "noise" is w_t = 1. Weighting "velocity" is w_t = 1/α_t², the error of v = α ε - σ x_0
(Salimans and Ho 2022): near pure noise, where a caption retrieves its picture, every ε is close
to x_t and the plain error vanishes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipeline.erasure.parameters import Teacher, select_parameters, trainable
from pipeline.erasure.sources import (
    AlsoUnconditional,
    Examples,
    NoisedPictures,
    Prompts,
    Source,
)
from pipeline.erasure.targets import Target
from pipeline.erasure.trajectories import EditedTrajectories, FrozenTrajectories, Walk
from pipeline.errors import ConfigError, ModelError
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.seeds import hash63

_FROZEN = -1.0  # the η whose target is the frozen model's own prediction
_ALPHA_MIN = 0.03  # schedules with zero terminal signal would divide by zero


@dataclass(frozen=True)
class Settings:
    """How to erase.

    `method` is "esd" (sampled latents) or "esd-gt" (noised training pictures); `parameters` a
    group of `pipeline.erasure.parameters`; `eta` the η of the paper. `retain_weight` is ρ, 0 for
    none. The empty prompt is retained as well, unless `erase_unconditional` asks to teach it the
    targets, in half of the examples.
    `trajectories` says whose samples "esd" trains on: "edited" as in the paper, or "frozen",
    drawn once before training, `trajectories_each` for a caption. `steps` and `guidance` are of
    those samples.
    """

    method: str = "esd"
    parameters: str = "x"
    eta: float = 1.0
    iterations: int = 90
    learning_rate: float = 3e-4
    batch: int = 32
    retain_weight: float = 10.0
    erase_unconditional: bool = False
    trajectories: str = "frozen"
    trajectories_each: int = 8
    steps: int = 25
    guidance: float = 3.0
    weighting: str = "velocity"
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("method", self.method, "esd", "esd-gt")
        _one_of("trajectories", self.trajectories, "edited", "frozen")
        _one_of("weighting", self.weighting, "noise", "velocity")


def _one_of(field: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise ConfigError(f"{field} {value!r}: one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Losses:
    """Both terms of one iteration, before the weight ρ."""

    erase: float
    retain: float


@dataclass(frozen=True)
class Report:
    """What training did: losses of every iteration, and the names of the tensors it changed."""

    losses: tuple[Losses, ...]
    trained: tuple[str, ...]
    n_trained_parameters: int


def erase(
    model: DiffusionModel,
    targets: Sequence[Target],
    retain_captions: Sequence[str],
    settings: Settings,
    *,
    on_step: Callable[[int, Losses], None] | None = None,
) -> Report:
    """Teach `model`, in place, not to draw the targets; the same weights for the same seed.

    `retain_captions` should hold memorized captions that are to stay, and a few dozen others: a
    retain set of ordinary captions alone lets other memorized pictures go too.
    `on_step` is called after every iteration with its number, from 1, and its losses. Raises
    ConfigError without targets, ModelError for half-precision weights or a diverged loss,
    InputError where a target lacks the picture that the method needs.
    """
    if not targets:
        raise ConfigError("nothing to erase: no targets")
    if model.unet.dtype != torch.float32:  # small steps vanish in half precision
        raise ModelError(f"weights are {model.unet.dtype}; load the model as float32 to train it")
    trained = select_parameters(model.unet, settings.parameters)
    generator = torch.Generator().manual_seed(hash63("erase", settings.seed))
    erased = _erase_source(model, Teacher(trained), targets, settings)
    retained = _retain_source(model, retain_captions, settings)
    optimizer = torch.optim.Adam(trained.values(), lr=settings.learning_rate)
    losses: list[Losses] = []
    with trainable(model.unet, trained):
        for iteration in range(1, settings.iterations + 1):
            losses.append(_step(model, optimizer, erased, retained, settings, generator))
            if on_step:
                on_step(iteration, losses[-1])
    n_trained = sum(tensor.numel() for tensor in trained.values())
    return Report(tuple(losses), tuple(trained), n_trained)


def _step(
    model: DiffusionModel,
    optimizer: torch.optim.Optimizer,
    erased: Source,
    retained: Source | None,
    settings: Settings,
    generator: torch.Generator,
) -> Losses:
    optimizer.zero_grad(set_to_none=True)
    erase_loss = _error(model, erased.draw(settings.batch, generator), settings.weighting)
    erase_loss.backward()
    retain_loss = torch.zeros(())
    if retained:
        retain_loss = _error(model, retained.draw(settings.batch, generator), settings.weighting)
        (settings.retain_weight * retain_loss).backward()
    optimizer.step()
    losses = Losses(float(erase_loss.detach()), float(retain_loss.detach()))
    if not math.isfinite(losses.erase + losses.retain):
        raise ModelError(f"the loss became {losses.erase + losses.retain}; lower learning_rate")
    return losses


def _error(model: DiffusionModel, examples: Examples, weighting: str) -> torch.Tensor:
    predicted = model.predict_noise(examples.x_t, examples.timesteps, examples.text)
    error = predicted - examples.target
    if weighting == "velocity":
        alpha, _ = model.alpha_sigma(examples.timesteps)
        error = error / alpha.clamp_min(_ALPHA_MIN)
    return error.square().mean()


def _erase_source(
    model: DiffusionModel, teacher: Teacher, targets: Sequence[Target], settings: Settings
) -> Source:
    prompts = Prompts(model, [target.captions for target in targets])
    source = _source(model, teacher, targets, prompts, settings)
    return AlsoUnconditional(source, prompts.empty) if settings.erase_unconditional else source


def _source(
    model: DiffusionModel,
    teacher: Teacher,
    targets: Sequence[Target],
    prompts: Prompts,
    settings: Settings,
) -> Source:
    eta, walk = settings.eta, Walk(settings.steps, settings.guidance)
    if settings.method == "esd-gt":
        return NoisedPictures(model, teacher, targets, prompts, eta=eta)
    if settings.trajectories == "edited":
        return EditedTrajectories(model, teacher, prompts, eta=eta, walk=walk)
    each, seed = settings.trajectories_each, hash63("erase", settings.seed)
    return FrozenTrajectories(model, prompts, eta=eta, walk=walk, each=each, seed=seed)


def _retain_source(
    model: DiffusionModel, captions: Sequence[str], settings: Settings
) -> Source | None:
    if not settings.retain_weight:
        return None
    kept = {caption for caption in captions if caption}
    if not settings.erase_unconditional:
        kept.add("")
    if not kept:
        return None
    prompts = Prompts(model, [[caption] for caption in sorted(kept)])
    walk, seed = Walk(settings.steps, settings.guidance), hash63("retain", settings.seed)
    return FrozenTrajectories(model, prompts, eta=_FROZEN, walk=walk, each=1, seed=seed)
