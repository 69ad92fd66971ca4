"""One trainer for every eraser.

    L = w_t ||ε_θ(x_t, c, t) - T||² + ρ w_t ||ε_θ(x_t', c', t') - ε*(x_t', c', t')||²

The first term erases: where x_t comes from and what T is make the method (SISS has a term of its
own, UCE a closed form without training). The second retains: on other captions c' the edited model
θ stays the frozen model *. Norms are means over elements, and predictions are noise, whatever the
model was trained to predict.

Weighting "noise" is w_t = 1. Weighting "velocity" is w_t = 1/α_t², the error of v = α ε - σ x_0
(Salimans and Ho 2022): near pure noise, where a caption retrieves its picture, every ε is close
to x_t and the plain error vanishes.

A loss that is not finite, or a hundred times the first, says that the learning rate diverges:
training stops, and the last weights with a sound loss that were kept are put back. Looks at the
model (pipeline/erasure/looks.py) may end the training where it has forgotten; if none says so, the
weights of the best look are put back.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from pipeline.erasure import uce
from pipeline.erasure.looks import Look, Looks, best
from pipeline.erasure.methods import erasing
from pipeline.erasure.objective import Objective, Regression
from pipeline.erasure.parameters import select_parameters, trainable
from pipeline.erasure.settings import Settings
from pipeline.erasure.sources import Prompts
from pipeline.erasure.targets import Target
from pipeline.erasure.trajectories import FrozenTrajectories, Walk
from pipeline.errors import ConfigError, ModelError
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.seeds import hash63

__all__ = ["Losses", "Report", "Settings", "erase"]

_FROZEN = -1.0  # the η whose target is the frozen model's own prediction
_DIVERGED = 100.0  # times the first loss, or 1 where that is less
_KEEP_EVERY = 10  # iterations between copies of the weights


@dataclass(frozen=True)
class Losses:
    """Both terms of one iteration, before the weight ρ."""

    erase: float
    retain: float


@dataclass(frozen=True)
class Report:
    """What training did: losses of every iteration, and the names of the tensors it changed.

    `iterations` are those that the weights went through; `diverged` says that there were to be
    more. `looks` are those that were taken; training ended at the one that was met.
    """

    losses: tuple[Losses, ...]
    trained: tuple[str, ...]
    n_trained_parameters: int
    iterations: int = 0
    diverged: bool = False
    looks: tuple[Look, ...] = ()


def erase(
    model: DiffusionModel,
    targets: Sequence[Target],
    retain_captions: Sequence[str],
    settings: Settings,
    *,
    on_step: Callable[[int, Losses], None] | None = None,
    looks: Looks | None = None,
) -> Report:
    """Teach `model`, in place, not to draw the targets; the same weights for the same seed.

    `retain_captions` should hold memorized captions that are to stay, and a few dozen others: a
    retain set of ordinary captions alone lets other memorized pictures go too.
    `on_step` is called after every iteration with its number, from 1, and its losses; `looks` may
    end the training early. Raises
    ConfigError without targets, ModelError for half-precision weights, for a second copy of the
    UNet, or where training diverges before anything was learnt (the model is then as before),
    InputError where a target lacks the pictures that the method needs.
    """
    if not targets:
        raise ConfigError("nothing to erase: no targets")
    if model.unet.dtype != torch.float32:  # small steps vanish in half precision
        raise ModelError(f"weights are {model.unet.dtype}; load the model as float32 to train it")
    refuse_copies(model)
    if settings.method == "uce":
        captions = [caption for target in targets for caption in target.captions]
        return _report(uce.edit(model, captions, retain_captions, settings.uce))
    trained = select_parameters(model.unet, settings.parameters)
    generator = torch.Generator().manual_seed(hash63("erase", settings.seed))
    terms = (
        erasing(model, trained, targets, retain_captions, settings),
        _retaining(model, retain_captions, settings),
    )
    optimizer = torch.optim.Adam(trained.values(), lr=settings.learning_rate)
    kept = _Kept(trained)
    losses: list[Losses] = []
    watched = _Watched(looks, trained)
    with trainable(model.unet, trained):
        for iteration in range(1, settings.iterations + 2):
            optimizer.zero_grad(set_to_none=True)
            found = _accumulate(*terms, settings.batch, generator)
            if _diverged(found, losses[0] if losses else found, settings.retain_weight):
                _stop(kept, found)
                report = _report(trained, losses[: kept.iteration], kept.iteration, diverged=True)
                return replace(report, looks=watched.before(kept.iteration))
            if iteration > settings.iterations:  # only to see that the last step was sound too
                break
            kept.offer(iteration - 1)
            losses.append(found)
            optimizer.step()
            if on_step:
                on_step(iteration, found)
            if watched.met(iteration, settings.iterations):
                break
    ended = watched.settle(len(losses))
    return replace(_report(trained, losses[:ended], ended), looks=tuple(watched.taken))


def refuse_copies(model: DiffusionModel) -> None:
    """Raise ModelError where the pipeline holds another UNet: it would ship the memory unedited.

    Averaged (EMA) weights are saved like that, as a component of their own.
    """
    own = model.unet
    for name, component in vars(model.pipe).items():
        if component is not own and type(component) is type(own):
            raise ModelError(
                f"{name}: another {type(own).__name__}, which would stay unedited; remove it from "
                "model_index.json, or edit it as the model's unet"
            )


class _Kept:
    """The trained weights as they last were with a sound loss."""

    def __init__(self, trained: Mapping[str, torch.nn.Parameter]) -> None:
        self._trained = list(trained.values())
        self._values = [tensor.detach().clone() for tensor in self._trained]
        self.iteration = 0

    def offer(self, iteration: int) -> None:
        """The weights after `iteration` have a sound loss; every few are copied."""
        if iteration - self.iteration >= _KEEP_EVERY:
            self.take(iteration)

    def take(self, iteration: int) -> None:
        """Copy the weights after `iteration`."""
        self._values = [tensor.detach().clone() for tensor in self._trained]
        self.iteration = iteration

    def put_back(self) -> None:
        with torch.no_grad():
            for tensor, value in zip(self._trained, self._values, strict=True):
                tensor.copy_(value)


class _Watched:
    """The looks taken so far, and the weights as they were at the best of them."""

    def __init__(self, looks: Looks | None, trained: Mapping[str, torch.nn.Parameter]) -> None:
        self._looks, self._trained = looks, trained
        self._best = _Kept(trained)
        self.taken: list[Look] = []

    def met(self, iteration: int, last: int) -> bool:
        """Look if it is time; whether training may end here."""
        if self._looks is None or not self._looks.due(iteration, last):
            return False
        look = self._looks.look(iteration)
        self.taken.append(look)
        if look.met or best(self.taken) is look:
            self._best.take(iteration)
        return look.met

    def settle(self, iterations: int) -> int:
        """Put the best weights back; the iterations that they went through."""
        if not self.taken or self.taken[-1].met:
            return iterations
        self._best.put_back()
        return self._best.iteration

    def before(self, iteration: int) -> tuple[Look, ...]:
        """The looks at weights that training went back to, or before."""
        return tuple(look for look in self.taken if look.iteration <= iteration)


def _stop(kept: _Kept, found: Losses) -> None:
    kept.put_back()
    if kept.iteration == 0:
        raise ModelError(
            f"the loss became {found.erase + found.retain:g} before anything was learnt; "
            "lower learning_rate"
        )


def _diverged(found: Losses, first: Losses, retain_weight: float) -> bool:
    now = found.erase + retain_weight * found.retain
    bound = _DIVERGED * max(1.0, first.erase + retain_weight * first.retain)
    return not math.isfinite(now) or now > bound


def _accumulate(
    erased: Objective, retained: Objective | None, batch: int, generator: torch.Generator
) -> Losses:
    erase_loss = erased.accumulate(batch, generator)
    return Losses(erase_loss, retained.accumulate(batch, generator) if retained else 0.0)


def _report(
    trained: Mapping[str, torch.nn.Parameter],
    losses: Sequence[Losses] = (),
    iterations: int = 0,
    *,
    diverged: bool = False,
) -> Report:
    count = sum(tensor.numel() for tensor in trained.values())
    return Report(tuple(losses), tuple(trained), count, iterations, diverged)


def _retaining(
    model: DiffusionModel, captions: Sequence[str], settings: Settings
) -> Objective | None:
    if not settings.retain_weight:
        return None
    kept = {caption for caption in captions if caption}
    if not settings.erase_unconditional:
        kept.add("")
    if not kept:
        return None
    prompts = Prompts(model, [[caption] for caption in sorted(kept)])
    walk, seed = Walk(settings.steps, settings.guidance), hash63("retain", settings.seed)
    source = FrozenTrajectories(model, prompts, eta=_FROZEN, walk=walk, each=1, seed=seed)
    return Regression(model, source, settings.weighting, scale=settings.retain_weight)
