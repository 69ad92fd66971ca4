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
from pipeline.erasure.kept import Kept, Watched
from pipeline.erasure.looks import Look, Looks
from pipeline.erasure.methods import erasing
from pipeline.erasure.objective import Objective, Regression
from pipeline.erasure.parameters import select_parameters, trainable
from pipeline.erasure.progress import Losses, Progress
from pipeline.erasure.saves import Saves, training_fingerprint
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
    saves: Saves | None = None,
) -> Report:
    """Teach `model`, in place, not to draw the targets; the same weights for the same seed.

    `retain_captions` should hold memorized captions that are to stay, and a few dozen others: a
    retain set of ordinary captions alone lets other memorized pictures go too.
    `on_step` is called after every iteration with its number, from 1, and its losses; `looks` may
    end the training early. `saves` keeps its state on disk: a training that was killed goes on
    from there, and ends with the weights of one that was not. Raises
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
    terms = (
        erasing(model, trained, targets, retain_captions, settings),
        _retaining(model, retain_captions, settings),
    )
    progress = Progress(
        trained,
        torch.optim.Adam(trained.values(), lr=settings.learning_rate),
        torch.Generator().manual_seed(hash63("erase", settings.seed)),
        terms,
        Kept(trained),
        Watched(looks, trained),
    )
    saved = _Saved(saves, model, trained, targets, retain_captions, settings)
    saved.restore(progress)
    with trainable(model.unet, trained):
        return _train(progress, terms, settings, saved, on_step)


def _train(
    progress: Progress,
    terms: tuple[Objective, Objective | None],
    settings: Settings,
    saved: "_Saved",
    on_step: Callable[[int, Losses], None] | None,
) -> Report:
    """Iterate from where `progress` is to the end."""
    trained, losses = progress.trained, progress.losses
    kept, watched = progress.kept, progress.watched
    for iteration in range(len(losses) + 1, settings.iterations + 2):
        progress.optimizer.zero_grad(set_to_none=True)
        found = _accumulate(*terms, settings.batch, progress.generator)
        if _diverged(found, losses[0] if losses else found, settings.retain_weight):
            _stop(kept, found)
            report = _report(trained, losses[: kept.iteration], kept.iteration, diverged=True)
            return replace(report, looks=watched.before(kept.iteration))
        if iteration > settings.iterations:  # only to see that the last step was sound too
            break
        kept.offer(iteration - 1)
        losses.append(found)
        progress.optimizer.step()
        if on_step:
            on_step(iteration, found)
        if watched.met(iteration, settings.iterations):
            break
        saved.write(progress)
    ended = watched.settle(len(losses))
    return replace(_report(trained, losses[:ended], ended), looks=tuple(watched.taken))


class _Saved:
    """The states of one training on disk, where it is to have any."""

    def __init__(
        self,
        saves: Saves | None,
        model: DiffusionModel,
        trained: Mapping[str, torch.nn.Parameter],
        targets: Sequence[Target],
        retained: Sequence[str],
        settings: Settings,
    ) -> None:
        self._saves = saves
        self._fingerprint = (
            training_fingerprint(model, trained, targets, retained, settings, saves.belongs_to)
            if saves is not None
            else ""
        )

    def restore(self, progress: Progress) -> None:
        """Go on from the last state if it is of this training."""
        state = self._saves.read(self._fingerprint) if self._saves else None
        if state is not None:
            progress.restore(state)

    def write(self, progress: Progress) -> None:
        """Write if it is time."""
        if self._saves is not None and self._saves.due(len(progress.losses)):
            self._saves.write(self._fingerprint, progress.state())


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


def _stop(kept: Kept, found: Losses) -> None:
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
