"""Closed forms in float64: what was mixed in is what comes out."""

import numpy as np
import pytest
import torch

from pipeline.errors import ModelError
from pipeline.generation.predictions import alpha_sigma, family, noise_of, predicted_kind


def mixed(alpha, sigma, seed=0):
    rng = np.random.default_rng(seed)
    x_0, noise = (torch.from_numpy(rng.normal(size=(len(alpha), 3, 5, 5))) for _ in range(2))
    alpha, sigma = (torch.tensor(a, dtype=torch.float64).view(-1, 1, 1, 1) for a in (alpha, sigma))
    return x_0, noise, alpha, sigma, alpha * x_0 + sigma * noise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_network_of_a_diffusion_gives_back_the_noise(kind):
    alpha = np.array([0.99, 0.5, 0.05])
    x_0, noise, a, s, x_t = mixed(alpha, np.sqrt(1 - alpha**2))
    output = {"epsilon": noise, "v_prediction": a * noise - s * x_0, "sample": x_0}[kind]
    assert (noise_of(kind, output, x_t, a, s) - noise).abs().max() < 1e-12


def test_a_perfect_network_of_a_flow_gives_back_the_noise():
    sigma = np.array([0.01, 0.4, 0.9, 1.0])
    x_0, noise, a, s, x_t = mixed(1 - sigma, sigma)
    velocity = noise - x_0
    assert (noise_of("flow_prediction", velocity, x_t, a, s) - noise).abs().max() < 1e-12


def test_a_flow_s_velocity_is_the_derivative_of_its_path():
    x_0, noise, _, _, x_t = mixed(np.array([0.7]), np.array([0.3]))
    step = 1e-6
    ahead = (1 - 0.3 - step) * x_0 + (0.3 + step) * noise
    assert ((ahead - x_t) / step - (noise - x_0)).abs().max() < 1e-8


def test_at_pure_noise_a_flow_s_noise_says_nothing_of_the_velocity():
    _, noise, a, s, x_t = mixed(np.array([0.0]), np.array([1.0]))
    for output in (torch.zeros_like(x_t), torch.randn_like(x_t)):
        assert torch.equal(noise_of("flow_prediction", output, x_t, a, s), noise)


def test_an_unknown_kind():
    zero = torch.zeros(1)
    with pytest.raises(ModelError, match="'edm' is not supported"):
        noise_of("edm", zero, zero, zero, zero)


# Schedules.


def stable_diffusion(**changes):
    from diffusers import DDIMScheduler

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**betas, **changes)


def cumulative_alphas():
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def test_alpha_and_sigma_of_a_diffusion():
    steps = torch.tensor([0, 1, 500, 999])
    alpha, sigma = alpha_sigma(stable_diffusion(), steps)
    expected = cumulative_alphas()[steps.numpy()]
    assert alpha.shape == sigma.shape == (4, 1, 1, 1)
    assert np.allclose(alpha.flatten().double() ** 2, expected, atol=1e-5)
    assert np.allclose(sigma.flatten().double() ** 2, 1 - expected, atol=1e-5)


def test_between_time_steps_the_ratio_is_linear():
    """As diffusers' Euler, whose own interpolation is taken here for comparison."""
    from diffusers import EulerDiscreteScheduler

    euler = EulerDiscreteScheduler.from_config(
        stable_diffusion().config, timestep_spacing="linspace"
    )
    euler.set_timesteps(7)
    assert (euler.timesteps != euler.timesteps.round()).any()
    alpha, sigma = alpha_sigma(euler, euler.timesteps)
    assert np.allclose((sigma / alpha).flatten(), euler.sigmas[:-1], rtol=1e-4)
    whole, _ = alpha_sigma(euler, torch.tensor([3.0, 998.0]))
    exact, _ = alpha_sigma(euler, torch.tensor([3, 998]))
    assert torch.equal(whole, exact)


def test_a_schedule_that_ends_in_pure_noise():
    scheduler = stable_diffusion(rescale_betas_zero_snr=True)
    alpha, sigma = alpha_sigma(scheduler, torch.tensor([999, 10]))
    assert alpha.flatten()[0] == 0
    assert sigma.flatten()[0] == 1
    assert torch.isfinite(alpha).all()


@pytest.mark.parametrize("name", ["flow_euler", "flow_heun", "flow_lcm", "unipc"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_s_time_is_its_noise(name, shift):
    """Shifted or not: diffusers' own sigmas are those that we read off the time steps."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from pipeline.generation.schedulers import build_scheduler

    scheduler = build_scheduler(name, FlowMatchEulerDiscreteScheduler(shift=shift))
    scheduler.set_timesteps(6)
    alpha, sigma = alpha_sigma(scheduler, scheduler.timesteps)
    expected = scheduler.sigmas[: len(sigma)].flatten().double().cpu()
    limit = 2e-3 if name == "unipc" else 1e-6  # its time steps are whole numbers
    if name != "flow_heun":  # it lists each time step once more
        assert (sigma.flatten() - expected).abs().max() < limit
    assert torch.allclose(alpha + sigma, torch.ones_like(alpha))


def test_families():
    from diffusers import (
        EDMEulerScheduler,
        FlowMatchEulerDiscreteScheduler,
        UniPCMultistepScheduler,
    )

    assert family(stable_diffusion()) == "diffusion"
    assert predicted_kind(stable_diffusion(prediction_type="sample")) == "sample"
    flow = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    for scheduler in (FlowMatchEulerDiscreteScheduler(), flow):
        assert family(scheduler) == "flow"
        assert predicted_kind(scheduler) == "flow_prediction"
    with pytest.raises(ModelError, match="EDMEulerScheduler: noise of this schedule"):
        family(EDMEulerScheduler())
