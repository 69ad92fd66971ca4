"""Noise schedules, and what a network predicts, as noise.

A noisy picture is x_t = α x_0 + σ ε with unit Gaussian ε. Diffusion models keep α² + σ² = 1 with
α² = ᾱ_t (Ho et al. 2020). Flow models go straight from picture to noise, α = 1 - σ, and their time
step is t = σ T for T training steps (Liu et al. 2023; Esser et al. 2024, section 2).

    predicts          output                     noise
    epsilon           ε                          ε
    v_prediction      v = α ε - σ x_0            α v + σ x_t          (α² + σ² = 1)
    sample            x_0                        (x_t - α x_0) / σ
    flow_prediction   v = dx_t/dσ = ε - x_0      x_t + (1 - σ) v

The second line is appendix D of Salimans and Ho 2022. For the last one, put ε = v + x_0 into x_t:
x_t = (1 - σ) x_0 + σ (v + x_0) = x_0 + σ v, so x_0 = x_t - σ v and ε = x_t + (1 - σ) v. At σ = 1,
where sampling starts, that is ε = x_t whatever v is: a flow model tells captions apart there by
its velocity alone.
"""

from typing import Any

import torch

from pipeline.errors import ModelError

DIFFUSION, FLOW = "diffusion", "flow"


def family(scheduler: Any) -> str:
    """`DIFFUSION` or `FLOW`; raises ModelError for a noise schedule that is neither."""
    config = scheduler.config
    name = type(scheduler).__name__
    flows = config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas")
    if name.startswith("FlowMatch") or flows:
        return FLOW
    if not isinstance(getattr(scheduler, "alphas_cumprod", None), torch.Tensor):
        raise ModelError(f"{name}: noise of this schedule is not supported; it can only be drawn")
    return DIFFUSION


def alpha_sigma(scheduler: Any, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """α_t and σ_t, each (n, 1, 1, 1) on the device of timesteps (n,).

    Between integers the ratio σ/α of a diffusion schedule is linear in t, as in diffusers' Euler.
    """
    if family(scheduler) == FLOW:
        sigma = timesteps.float() / float(scheduler.config.num_train_timesteps)
        return (1 - sigma).view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
    cumulative = scheduler.alphas_cumprod.to(timesteps.device)
    if timesteps.is_floating_point() and not torch.equal(timesteps, timesteps.round()):
        alpha_squared = _between(cumulative, timesteps)
    else:
        alpha_squared = cumulative[timesteps.long()]
    alpha_squared = alpha_squared.view(-1, 1, 1, 1)
    return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()


def _between(cumulative: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """ᾱ at times between integers; ratio² = (1 - ᾱ) / ᾱ."""
    times = timesteps.clamp(0, len(cumulative) - 1)
    low = times.floor().long()
    high = (low + 1).clamp(max=len(cumulative) - 1)
    ratio = ((1 - cumulative) / cumulative).sqrt()
    ratio = torch.lerp(ratio[low], ratio[high], (times - low).to(ratio.dtype))
    return 1 / (1 + ratio.square())


def noise_of(
    kind: str, output: torch.Tensor, x_t: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """The noise that `output` of a network of this kind means; raises ModelError for others."""
    if kind == "epsilon":
        return output
    if kind == "v_prediction":
        return alpha * output + sigma * x_t
    if kind == "sample":
        return (x_t - alpha * output) / sigma
    if kind == "flow_prediction":
        return x_t + alpha * output
    raise ModelError(f"prediction type {kind!r} is not supported yet")


def predicted_kind(scheduler: Any) -> str:
    """What the network predicts, by the name in the table above."""
    if family(scheduler) == FLOW:
        return "flow_prediction"
    return str(scheduler.config.get("prediction_type", "epsilon"))
