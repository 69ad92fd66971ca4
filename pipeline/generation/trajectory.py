"""The first steps of a sampling trajectory, with both predictions of each step.

    ε_cfg = ε(x_t, ∅) + g (ε(x_t, c) - ε(x_t, ∅))        (Ho and Salimans 2022)

The scheduler is stepped with the guided raw output, as the pipeline itself does, which leaves
guidance out for g <= 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pipeline.generation.backend import DiffusionModel
from pipeline.generation.conditions import Conditions


@dataclass(frozen=True)
class ScoredStep:
    """One step of n trajectories; all predictions are (n, c, h, w) at `timestep`, rounded down.

    `raw_uncond` and `raw_text` are what the network itself predicts. For a flow model that is the
    velocity, which tells captions apart where the noise does not: at pure noise σ = 1, where
    ε(x_t, c) = x_t for every c, and everywhere ε(x_t, c) - ε(x_t, ∅) = (1 - σ) (v(c) - v(∅)).
    """

    timestep: int
    eps_uncond: torch.Tensor
    eps_text: torch.Tensor
    raw_uncond: torch.Tensor
    raw_text: torch.Tensor

    @classmethod
    def of(
        cls,
        model: DiffusionModel,
        timestep: torch.Tensor,
        scaled: torch.Tensor,
        raw_uncond: torch.Tensor,
        raw_text: torch.Tensor,
    ) -> "ScoredStep":
        """What the network put out for `scaled` (n, c, h, w) at one timestep ()."""
        times = timestep.expand(len(scaled))
        eps_uncond, eps_text = (
            model.to_noise(raw, scaled, times) for raw in (raw_uncond, raw_text)
        )
        return cls(int(timestep), eps_uncond, eps_text, raw_uncond, raw_text)


@torch.inference_mode()
def first_steps(
    model: DiffusionModel,
    text: Conditions | torch.Tensor,
    uncond: Conditions | torch.Tensor,
    x_t: torch.Tensor,
    *,
    num_inference_steps: int,
    guidance: float,
    steps: int,
) -> Iterator[ScoredStep]:
    """Yield the first `steps` steps from unit noise x_t (n, c, h, w).

    `text` has n rows; `uncond` too, or one for all. With one, equal rows of x_t share their first
    unconditional prediction: captions that are scored on one seed cost one forward each. Where a
    solver visits a time again (PNDM, Heun), its first visit is yielded.
    """
    told, nothing = as_conditions(text), as_conditions(uncond)
    scheduler, timesteps = model.start(num_inference_steps)
    x_t = x_t * float(getattr(scheduler, "init_noise_sigma", 1.0))
    rows, place = _distinct(x_t) if len(nothing) == 1 else (x_t, torch.arange(len(x_t)))
    scored: list[int] = []
    for timestep in timesteps:
        if len(scored) == steps:
            return
        inputs = [scaled_input(scheduler, rows, timestep), scaled_input(scheduler, x_t, timestep)]
        both = nothing.expand(len(rows)) if len(nothing) == 1 else nothing
        raw_uncond, raw_text = model.output(
            torch.cat(inputs),
            timestep.expand(len(rows) + len(x_t)),
            Conditions.cat([both, told]),
        ).split([len(rows), len(x_t)])
        raw_uncond = raw_uncond[place.to(raw_uncond.device)]
        if int(timestep) not in scored:
            scored.append(int(timestep))
            yield ScoredStep.of(model, timestep, inputs[1], raw_uncond, raw_text)
        guided = raw_text
        if guidance > 1:
            guided = raw_uncond + guidance * (raw_text - raw_uncond)
        x_t = scheduler.step(guided, timestep, x_t).prev_sample
        rows, place = x_t, torch.arange(len(x_t))


def as_conditions(given: Conditions | torch.Tensor) -> Conditions:
    """A UNet that reads text alone may be given its states (n, tokens, d)."""
    return Conditions({"text": given}) if isinstance(given, torch.Tensor) else given


def _distinct(x_t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The different rows of x_t (n, ...), and for each row which of them it is (n,)."""
    values, place = torch.unique(x_t.flatten(1).float(), dim=0, return_inverse=True)
    rows = x_t.new_empty(len(values), *x_t.shape[1:])
    rows[place] = x_t
    return rows, place


def scaled_input(scheduler: object, x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """x_t as the network sees it; schedulers of flow models do not scale it."""
    scale = getattr(scheduler, "scale_model_input", None)
    return scale(x_t, timestep) if scale is not None else x_t
