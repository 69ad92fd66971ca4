"""The erasers by name: each makes the objective that the trainer descends on."""

from collections.abc import Mapping, Sequence

import torch

from pipeline.erasure.ablate import Anchored
from pipeline.erasure.adversarial import Adversarial
from pipeline.erasure.noised import NoisedPictures
from pipeline.erasure.objective import Objective, Regression
from pipeline.erasure.parameters import Teacher
from pipeline.erasure.retrack import Redirected
from pipeline.erasure.settings import Settings
from pipeline.erasure.siss import Siss
from pipeline.erasure.sources import AlsoUnconditional, Prompts, Source
from pipeline.erasure.targets import Target
from pipeline.erasure.trajectories import EditedTrajectories, FrozenTrajectories, Walk
from pipeline.errors import ConfigError
from pipeline.generation.backend import DiffusionModel
from pipeline.ids import hash63


def erasing(
    model: DiffusionModel,
    trained: Mapping[str, torch.nn.Parameter],
    targets: Sequence[Target],
    others: Sequence[str],
    settings: Settings,
) -> Objective:
    """The erasing term of a method; `others` are captions that have nothing to do with targets.

    Raises InputError where a target lacks what the method needs.
    """
    prompts = Prompts(model, [target.captions for target in targets])
    if settings.method == "siss":
        return Siss(model, trained, targets, prompts, settings.siss, settings.weighting)
    source = _source(model, Teacher(trained), targets, prompts, others, settings)
    if settings.erase_unconditional:
        source = AlsoUnconditional(source, prompts.empty)
    return Regression(model, source, settings.weighting)


def _source(
    model: DiffusionModel,
    teacher: Teacher,
    targets: Sequence[Target],
    prompts: Prompts,
    others: Sequence[str],
    settings: Settings,
) -> Source:
    match settings.method:
        case "esd":
            return _esd(model, teacher, prompts, settings)
        case "esd-gt":
            return NoisedPictures(model, teacher, targets, prompts, eta=settings.eta)
        case "ablate":
            return Anchored(model, teacher, targets, prompts, settings.ablate)
        case "retrack":
            return Redirected(model, targets, prompts)
        case "adversarial":
            return Adversarial(model, targets, prompts, others, settings.adversarial)
        case other:
            raise ConfigError(f"method {other!r} is not trained")


def _esd(model: DiffusionModel, teacher: Teacher, prompts: Prompts, settings: Settings) -> Source:
    eta, walk = settings.eta, Walk(settings.steps, settings.guidance)
    if settings.trajectories == "edited":
        return EditedTrajectories(model, teacher, prompts, eta=eta, walk=walk)
    each, seed = settings.trajectories_each, hash63("erase", settings.seed)
    return FrozenTrajectories(model, prompts, eta=eta, walk=walk, each=each, seed=seed)
