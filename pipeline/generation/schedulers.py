"""Samplers by name, each with the noise schedule of the model.

A sampler is a class of diffusers and settings of its own; all else (betas, prediction type, shift
of a flow) is the model's. One that would leave out a part of the model's schedule is refused: it
would draw other pictures, and nothing would say so.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.errors import ConfigError, ModelError, first_line
from pipeline.generation.predictions import DIFFUSION, FLOW, family


@dataclass(frozen=True)
class Sampler:
    """A scheduler class of diffusers, the models it draws from, and its own settings."""

    kind: str
    families: frozenset[str] = frozenset({DIFFUSION})
    settings: Mapping[str, Any] = field(default_factory=dict)


_BOTH = frozenset({DIFFUSION, FLOW})
_FLOW = frozenset({FLOW})
_MULTISTEP = "DPMSolverMultistepScheduler"
_KARRAS = {"use_karras_sigmas": True}
_SDE = {"algorithm_type": "sde-dpmsolver++"}

SAMPLERS: Mapping[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler"),
    "ddpm": Sampler("DDPMScheduler"),
    # skip_prk_steps as Stable Diffusion does: a forward a step
    "pndm": Sampler("PNDMScheduler", settings={"skip_prk_steps": True}),
    "lms": Sampler("LMSDiscreteScheduler"),
    "dpmsolver++": Sampler(_MULTISTEP, _BOTH),
    "dpmsolver++_karras": Sampler(_MULTISTEP, settings=_KARRAS),
    "dpmsolver++_sde": Sampler(_MULTISTEP, _BOTH, _SDE),
    "dpmsolver++_sde_karras": Sampler(_MULTISTEP, settings=_SDE | _KARRAS),
    "dpmsolver++_2s": Sampler("DPMSolverSinglestepScheduler", settings={"solver_order": 2}),
    "dpmsolver++_3": Sampler(_MULTISTEP, _BOTH, {"solver_order": 3}),
    "unipc": Sampler("UniPCMultistepScheduler", _BOTH),
    "deis": Sampler("DEISMultistepScheduler", _BOTH),
    "heun": Sampler("HeunDiscreteScheduler"),
    "euler": Sampler("EulerDiscreteScheduler"),
    "euler_karras": Sampler("EulerDiscreteScheduler", settings=_KARRAS),
    "euler_ancestral": Sampler("EulerAncestralDiscreteScheduler"),
    "kdpm2": Sampler("KDPM2DiscreteScheduler"),
    "kdpm2_ancestral": Sampler("KDPM2AncestralDiscreteScheduler"),
    "lcm": Sampler("LCMScheduler"),
    "flow_euler": Sampler("FlowMatchEulerDiscreteScheduler", _FLOW),
    "flow_heun": Sampler("FlowMatchHeunDiscreteScheduler", _FLOW),
    "flow_lcm": Sampler("FlowMatchLCMScheduler", _FLOW),
}

_CARRIED = {
    "rescale_betas_zero_snr": False,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "invert_sigmas": False,
}
"""Settings that change a noise schedule, and their value where they do not."""


def build_scheduler(name: str, own: Any) -> Any:
    """The scheduler of this name for the model whose scheduler is `own`; "default" is that one.

    Raises ConfigError for an unknown name and for a scheduler that the model cannot use.
    """
    import diffusers  # noqa: PLC0415  slow to import

    if name == "default":
        return own
    if name not in SAMPLERS:
        raise ConfigError(f"scheduler {name!r}: one of {', '.join(sorted(SAMPLERS))}")
    sampler, needed = SAMPLERS[name], _family_of(own, name)
    if needed not in sampler.families:
        fitting = sorted(n for n, other in SAMPLERS.items() if needed in other.families)
        raise ConfigError(
            f"scheduler {name!r}: not for a {needed} model; one of {', '.join(fitting)}"
        )
    kind = getattr(diffusers, sampler.kind)
    settings = {**_translated(own, sampler), **sampler.settings}
    _require_carried(name, kind, own)
    try:
        scheduler = kind.from_config(own.config, **settings)
    except Exception as error:  # whatever a stranger's settings set off in there
        raise ConfigError(
            f"scheduler {name!r}: not for this model ({first_line(error)})"
        ) from error
    if needed == DIFFUSION and not _same_noise(scheduler, own):
        raise ConfigError(f"scheduler {name!r}: it has not the noise schedule of this model")
    return scheduler


def require_steps(
    name: str, scheduler: Any, steps: int, start: Callable[[Any, int], torch.Tensor]
) -> None:
    """Raise ConfigError unless `scheduler` can be started with so many steps and take one."""
    most = int(scheduler.config.get("num_train_timesteps", steps))
    if steps > most:
        raise ConfigError(f"scheduler {name!r} with {steps} steps: at most {most}")
    try:
        first = start(scheduler, steps)[0]
        zero = torch.zeros(1, 1, 2, 2, device=first.device)
        learned = str(scheduler.config.get("variance_type")).startswith("learned")
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(zero, first)
        scheduler.step(zero.repeat(1, 2, 1, 1) if learned else zero, first, zero)
    except Exception as error:
        raise ConfigError(
            f"scheduler {name!r} with {steps} steps: not for this model ({first_line(error)})"
        ) from error


def require_usable(name: str, own: Any, steps: int) -> None:
    """Raise ConfigError where a model with the scheduler `own` cannot be drawn so.

    What depends on the size of the picture is not asked here; `require_steps` asks it.
    """

    def start(scheduler: Any, count: int) -> torch.Tensor:
        shift = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(count, **shift)
        return scheduler.timesteps

    require_steps(name, build_scheduler(name, own), steps, start)


def _family_of(own: Any, name: str) -> str:
    try:
        return family(own)
    except ModelError as error:
        raise ConfigError(
            f"scheduler {name!r}: {type(own).__name__} of this model cannot be replaced; "
            "use default"
        ) from error


def _translated(own: Any, sampler: Sampler) -> dict[str, Any]:
    """A flow's settings, under the names that the solvers of diffusion models give them."""
    if family(own) == DIFFUSION:
        return {}
    shift = own.config.get("flow_shift", own.config.get("shift", 1.0))
    if sampler.families == _FLOW:
        return {"shift": shift}
    return {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}


def _require_carried(name: str, kind: Any, own: Any) -> None:
    taken = inspect.signature(kind.__init__).parameters
    for setting, neutral in _CARRIED.items():
        value = own.config.get(setting, neutral)
        if value != neutral and setting not in taken:
            raise ConfigError(
                f"scheduler {name!r}: cannot keep {setting}={value} of this model's schedule"
            )


def _same_noise(scheduler: Any, own: Any) -> bool:
    """Whether ᾱ_t is the same; a last value of 0 may be the 2^-24 that some solvers put there."""
    ours, theirs = scheduler.alphas_cumprod, own.alphas_cumprod
    return ours.shape == theirs.shape and bool(torch.allclose(ours, theirs, atol=1e-6, rtol=1e-4))
