"""One trainer for every eraser.

    L = w_t ||ε_θ(x_t, c) - T||² + ρ w_t ||ε_θ(x_t', c') - ε*(x_t', c')||²

The first term erases: where x_t comes from and what T is make the method. The second retains: on
other captions c' the edited model stays the frozen model ε*. Both are means over the elements of
a batch, in noise space whatever the model was trained to predict. With weighting "noise"
w_t = 1; with "velocity" w_t = 1/α_t², which is the error of v = α ε - σ x_0 (Salimans and Ho
2022), and keeps the high noise levels, where a caption retrieves its picture, from vanishing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipeline.erasure.parameters import Teacher, select_parameters, trainable
from pipeline.erasure.sources import Examples, NoisedPictures, Prompts, Source
from pipeline.erasure.targets import Target
from pipeline.erasure.trajectories import EditedTrajectories, FrozenTrajectories, Walk
from pipeline.errors import ConfigError, ModelError
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.seeds import hash63

_FROZEN = -1.0  # the η whose target is the frozen model's own prediction


@dataclass(frozen=True)
class Settings:
    method: str = "esd"
    parameters: str = "x"
    eta: float = 1.0
    iterations: int = 50
    learning_rate: float = 3e-4
    batch: int = 32
    retain_weight: float = 1.0
    erase_unconditional: bool = False
    trajectories: str = "frozen"
    trajectories_each: int = 8
    steps: int = 25
    guidance: float = 3.0
    weighting: str = "velocity"
    seed: int = 0


@dataclass(frozen=True)
class Losses:
    erase: float
    retain: float


@dataclass(frozen=True)
class Report:
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
    if not targets:
        raise ConfigError("nothing to erase: no targets")
    parameters = select_parameters(model.unet, settings.parameters)
    generator = torch.Generator().manual_seed(hash63("erase", settings.seed))
    teacher = Teacher(parameters)
    erased = _erased(model, teacher, targets, settings)
    retained = _retained(model, retain_captions, settings)
    empty = model.embed_text([""]).detach()
    losses = []
    with trainable(model.unet, parameters):
        optimizer = torch.optim.Adam(parameters.values(), lr=settings.learning_rate)
        for number in range(settings.iterations):
            ex = erased.draw(settings.batch, generator)
            if settings.erase_unconditional:
                coin = torch.rand(settings.batch, generator=generator) < 0.5
                text = torch.where(coin[:, None, None], empty, ex.text)
                ex = Examples(ex.x_t, ex.timesteps, text, ex.target)
            loss_e = _error(model, ex, settings.weighting)
            loss_r = torch.zeros(())
            if retained is not None:
                loss_r = _error(model, retained.draw(settings.batch, generator), settings.weighting)
            optimizer.zero_grad(set_to_none=True)
            (loss_e + settings.retain_weight * loss_r).backward()
            optimizer.step()
            losses.append(Losses(float(loss_e.detach()), float(loss_r.detach())))
            if on_step: on_step(number, losses[-1])
    return Report(tuple(losses), tuple(parameters), sum(t.numel() for t in parameters.values()))


def _error(model: DiffusionModel, examples: Examples, weighting: str) -> torch.Tensor:
    predicted = model.predict_noise(examples.x_t, examples.timesteps, examples.text)
    error = predicted - examples.target
    if weighting == "velocity":
        error = error / model.alpha_sigma(examples.timesteps)[0].clamp_min(0.03)
    return error.square().mean()


def _erased(model, teacher, targets, settings) -> Source:
    walk = Walk(settings.steps, settings.guidance)
    if settings.method == "esd-gt":
        return NoisedPictures(model, teacher, targets, eta=settings.eta)
    prompts = Prompts(model, [target.captions for target in targets])
    if settings.trajectories == "edited":
        return EditedTrajectories(model, teacher, prompts, eta=settings.eta, walk=walk)
    return FrozenTrajectories(model, prompts, eta=settings.eta, walk=walk, each=settings.trajectories_each, seed=settings.seed)


def _retained(model, captions, settings) -> Source | None:
    if not captions or settings.retain_weight == 0:
        return None
    prompts = Prompts(model, [[c] for c in captions])
    return FrozenTrajectories(model, prompts, eta=_FROZEN, walk=Walk(settings.steps, settings.guidance), each=1, seed=hash63("retain", settings.seed))
