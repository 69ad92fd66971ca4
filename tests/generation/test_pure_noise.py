import numpy as np
import pytest
import torch
from tiny_model import build_tiny_pipeline

from pipeline.generation.backend import fresh_model
from pipeline.generation.pure_noise import pure_noise_step
from pipeline.generation.trajectory import first_steps


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return fresh_model(build_tiny_pipeline(tmp_path_factory.mktemp("pure") / "tiny"))


def inputs(model):
    text = model.embed_text(["a cat", "two dogs"])
    return text, model.embed_text([""]).expand_as(text), model.noise([1, 2])


@torch.inference_mode()
def test_it_is_the_network_on_the_first_noise(model):
    text, uncond, x_t = inputs(model)
    number, step = pure_noise_step(model, text, uncond, x_t, num_inference_steps=10, step=-3)
    assert (number, step.timestep) == (7, 201)  # 901, 801 … 1: the last but two
    t = torch.tensor([201, 201])
    assert (step.eps_text - model.predict_noise(x_t, t, text)).abs().max() < 1e-5
    assert (step.eps_uncond - model.predict_noise(x_t, t, uncond)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++", "pndm"])
def test_step_zero_is_the_first_step_of_the_trajectory(model, name):
    own = model.pipe.scheduler
    model.use_scheduler(name)
    try:
        text, uncond, x_t = inputs(model)
        how = {"num_inference_steps": 8}
        first = next(first_steps(model, text, uncond, x_t, **how, guidance=2.0, steps=1))
        number, step = pure_noise_step(model, text, uncond, x_t, **how, step=0)
    finally:
        model.pipe.scheduler = own
    assert number == 0 and step.timestep == first.timestep
    assert np.abs((step.eps_text - first.eps_text).numpy()).max() < 1e-5
    assert np.abs((step.eps_uncond - first.eps_uncond).numpy()).max() < 1e-5


@pytest.mark.parametrize(("steps", "number"), [(1, 0), (2, 0), (3, 0), (4, 1)])
def test_a_short_sampler_is_asked_at_its_first_step(model, steps, number):
    text, uncond, x_t = inputs(model)
    found = pure_noise_step(model, text, uncond, x_t, num_inference_steps=steps, step=-3)
    assert found[0] == number


@torch.inference_mode()
def test_a_sampler_with_sigmas_sees_noise_of_unit_variance(model):
    """Euler scales x_T up and the network's input down again: the network sees what DDIM shows."""
    text, uncond, noise = inputs(model)
    how = {"num_inference_steps": 10, "step": -3}
    own = model.pipe.scheduler
    model.use_scheduler("euler")
    try:
        number, step = pure_noise_step(model, text, uncond, noise, **how)
    finally:
        model.pipe.scheduler = own
    t = torch.tensor([step.timestep] * 2)
    assert number == 7
    assert (step.eps_text - model.predict_noise(noise, t, text)).abs().max() < 0.02
