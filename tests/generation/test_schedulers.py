"""Samplers by name, judged by data whose best network is known.

For x_0 from N(m, s²) the best noise prediction is σ (x - α m) / (α² s² + σ²), and the probability
flow ends in m + s (x_T - α_T m) / sqrt(α_T² s² + σ_T²).
"""

import numpy as np
import pytest
import torch
from tiny_pipelines import build

from pipeline.errors import ConfigError
from pipeline.generation.backend import Sampling, fresh_model
from pipeline.generation.predictions import alpha_sigma, family
from pipeline.generation.schedulers import SAMPLERS, build_scheduler, require_steps

MEAN, STD = 0.4, 0.3
RANDOM = {
    "ddpm",
    "euler_ancestral",
    "kdpm2_ancestral",
    "dpmsolver++_sde",
    "dpmsolver++_sde_karras",
    "lcm",
    "flow_lcm",
}
DIFFUSIONS = sorted(name for name, s in SAMPLERS.items() if "diffusion" in s.families)
FLOWS = sorted(name for name, s in SAMPLERS.items() if "flow" in s.families)


def diffusion(kind="epsilon", **changes):
    from diffusers import DDIMScheduler

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    given = {"clip_sample": False, "set_alpha_to_one": False, "prediction_type": kind}
    return DDIMScheduler(**{**betas, **given, "timestep_spacing": "trailing", **changes})


def flow(**changes):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **changes})


def best(scheduler, x_t, timestep):
    """What the best network of this kind says."""
    alpha, sigma = alpha_sigma(scheduler, timestep.expand(1).double())
    alpha, sigma = alpha.double(), sigma.double()
    variance = alpha**2 * STD**2 + sigma**2
    noise = sigma * (x_t - alpha * MEAN) / variance
    x_0 = MEAN + alpha * STD**2 * (x_t - alpha * MEAN) / variance
    if family(scheduler) == "flow":
        return noise - x_0
    kind = scheduler.config.prediction_type
    return {"epsilon": noise, "v_prediction": alpha * noise - sigma * x_0, "sample": x_0}[kind]


def run(scheduler, steps):
    torch.manual_seed(0)  # some samplers take noise of the global generator
    noise = torch.randn(1, 1, 64, 64, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    x_t = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for timestep in scheduler.timesteps:
        scaled = x_t
        if hasattr(scheduler, "scale_model_input"):
            scaled = scheduler.scale_model_input(x_t, timestep)
        x_t = scheduler.step(best(scheduler, scaled, timestep), timestep, x_t).prev_sample
    return noise, x_t


@pytest.mark.parametrize("name", DIFFUSIONS)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_every_sampler_of_a_diffusion_ends_where_it_must(name, kind):
    own = diffusion(kind)
    scheduler = build_scheduler(name, own)
    assert scheduler.config.prediction_type == kind
    assert np.allclose(scheduler.alphas_cumprod, own.alphas_cumprod, atol=1e-6)
    noise, end = run(scheduler, 200 if name in ("ddpm", "euler_ancestral") else 50)
    judge(name, noise, end)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_every_sampler_of_a_flow_ends_where_it_must(name, shift):
    noise, end = run(build_scheduler(name, flow(shift=shift)), 50)
    judge(name, noise, end)


def judge(name, noise, end):
    if name.endswith("lcm"):  # a consistency model jumps: this network's jump ends in the mean
        assert end.mean().item() == pytest.approx(MEAN, abs=0.05)
    elif name in RANDOM:
        assert end.mean().item() == pytest.approx(MEAN, abs=0.05)
        assert end.std().item() == pytest.approx(STD, abs=0.05)
    else:
        assert (end - (MEAN + STD * noise)).abs().mean() < 0.05


def test_a_wrong_kind_of_prediction_would_be_seen():
    own = diffusion("v_prediction")
    scheduler = build_scheduler("dpmsolver++", diffusion("epsilon"))
    x_t = noise = torch.randn(1, 1, 64, 64, dtype=torch.float64)
    scheduler.set_timesteps(50)
    for timestep in scheduler.timesteps:
        x_t = scheduler.step(best(own, x_t, timestep), timestep, x_t).prev_sample
    assert (x_t - (MEAN + STD * noise)).abs().mean() > 0.05


# What cannot be used.


@pytest.mark.parametrize("name", sorted(set(DIFFUSIONS) - set(FLOWS)))
def test_samplers_of_diffusions_are_not_for_flows(name):
    with pytest.raises(
        ConfigError, match=f"{name.replace('+', '.')}': not for a flow model; one of"
    ):
        build_scheduler(name, flow())


@pytest.mark.parametrize("name", sorted(set(FLOWS) - set(DIFFUSIONS)))
def test_samplers_of_flows_are_not_for_diffusions(name):
    with pytest.raises(ConfigError, match="not for a diffusion model; one of ddim, ddpm, deis"):
        build_scheduler(name, diffusion())


def test_an_unknown_name():
    with pytest.raises(ConfigError, match="'magic': one of ddim, ddpm, deis"):
        build_scheduler("magic", diffusion())


@pytest.mark.parametrize("name", ["heun", "lms", "pndm", "deis"])
def test_a_sampler_that_would_lose_a_part_of_the_schedule(name):
    own = diffusion("v_prediction", rescale_betas_zero_snr=True)
    with pytest.raises(ConfigError, match="cannot keep rescale_betas_zero_snr=True"):
        build_scheduler(name, own)


def test_a_sampler_that_loses_the_shift_by_size():
    with pytest.raises(ConfigError, match="cannot keep use_dynamic_shifting=True"):
        build_scheduler("flow_heun", flow(use_dynamic_shifting=True))
    assert build_scheduler("flow_lcm", flow(use_dynamic_shifting=True)).config.use_dynamic_shifting


@pytest.mark.parametrize("name", ["dpmsolver++", "unipc", "euler", "lcm"])
def test_a_schedule_that_ends_in_pure_noise_is_kept_by_those_that_know_it(name):
    own = diffusion("v_prediction", rescale_betas_zero_snr=True)
    scheduler = build_scheduler(name, own)
    assert float(scheduler.alphas_cumprod[-1]) < 1e-6
    require_steps(name, scheduler, 4, lambda s, n: (s.set_timesteps(n), s.timesteps)[1])


def test_schedules_of_trained_betas_are_carried():
    betas = np.linspace(0.001, 0.03, 50)
    own = diffusion(trained_betas=betas.tolist(), num_train_timesteps=50)
    for name in DIFFUSIONS:
        if name != "lcm":  # its own distillation has 50 of 1000 steps
            scheduler = build_scheduler(name, own)
            assert np.allclose(scheduler.alphas_cumprod, np.cumprod(1 - betas), atol=1e-5), name


def test_a_model_with_a_schedule_of_its_own_keeps_it():
    from diffusers import EDMEulerScheduler

    own = EDMEulerScheduler()
    assert build_scheduler("default", own) is own
    with pytest.raises(ConfigError, match="EDMEulerScheduler of this model cannot be replaced"):
        build_scheduler("ddim", own)


@pytest.mark.parametrize(
    ("name", "steps", "why"),
    [
        ("lcm", 60, "not for this model"),
        ("ddim", 2000, "at most 1000"),
        ("default", 2000, "at most 1000"),
        ("ddpm", 1001, "at most 1000"),
    ],
)
def test_more_steps_than_there_are(tiny, name, steps, why):
    with pytest.raises(ConfigError, match=f"'{name}' with {steps} steps: {why}") as caught:
        tiny("sd2").draw(["a cat"], [1], Sampling(scheduler=name, steps=steps))
    assert "\n" not in str(caught.value)


# Through a pipeline.


@pytest.mark.parametrize("name", DIFFUSIONS)
@pytest.mark.parametrize("steps", [2, 5])
def test_every_sampler_draws(tiny, name, steps):
    model = tiny("sd2")
    own = model.pipe.scheduler
    pictures = model.draw(["a cat"], [1], Sampling(scheduler=name, steps=steps))
    assert pictures.std() > 1
    assert model.pipe.scheduler is own


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize(("kind", "changes"), [("sd3", {}), ("flux", {})])
def test_every_sampler_of_a_flow_draws(tiny, kind, changes, name):
    model = tiny(kind, **changes)
    own = model.pipe.scheduler
    if kind == "flux" and name == "flow_heun":
        with pytest.raises(ConfigError, match="cannot keep use_dynamic_shifting"):
            model.draw(["a cat"], [1], Sampling(scheduler=name, steps=3))
    else:
        assert model.draw(["a cat"], [1], Sampling(scheduler=name, steps=3)).std() > 1
    assert model.pipe.scheduler is own


def test_a_flow_without_shift_by_size_and_a_solver_that_wants_one(tiny):
    """FLUX schnell: its pipeline hands every solver a shift, which some cannot take."""
    model = tiny("flux", guided=False)
    with pytest.raises(ConfigError, match=r"'dpmsolver.*' with 3 steps: not for this") as caught:
        model.draw(["a cat"], [1], Sampling(scheduler="dpmsolver++", steps=3))
    assert "\n" not in str(caught.value)
    assert model.draw(["a cat"], [1], Sampling(scheduler="unipc", steps=3)).std() > 1


@pytest.mark.parametrize("name", ["ddpm", "euler_ancestral", "dpmsolver++_sde", "lcm"])
def test_noise_of_the_steps_is_each_picture_s_own(tiny, name):
    model, how = tiny("sd2"), Sampling(scheduler=name, steps=4)
    captions, seeds = ["a cat", "two dogs", ""], [1, 2, 3]
    together = model.draw(captions, seeds, how).astype(int)
    for row in range(3):
        alone = model.draw([captions[row]], [seeds[row]], how)[0]
        assert np.abs(together[row] - alone).max() <= 1


def test_changing_the_scheduler_for_good(tmp_path):
    model = fresh_model(build("sd2", tmp_path / "tiny"))
    model.use_scheduler("euler")
    assert type(model.pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    assert model.pipe.scheduler.config.prediction_type == "v_prediction"
