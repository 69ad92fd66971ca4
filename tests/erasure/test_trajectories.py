import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler

from pipeline.erasure.parameters import Teacher, select_parameters
from pipeline.erasure.sources import Prompts
from pipeline.erasure.trajectories import EditedTrajectories, FrozenTrajectories, Walk, denoise

CAPTIONS = [["a red hat"], ["blue bus"]]
WALK = Walk(steps=10, guidance=3.0)


def signal_levels():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


def start(model, count):
    return torch.randn((count, *model.latent_shape), generator=torch.Generator().manual_seed(0))


def walk_points(model):
    prompts = Prompts(model, CAPTIONS)
    return list(denoise(model, start(model, 2), prompts.text, prompts.empty, WALK))


@pytest.mark.parametrize("own_scheduler", ["ddim", "pndm"])
def test_each_x_t_follows_from_the_one_before_by_ddim_at_the_time_steps_given(model, own_scheduler):
    """x_s = α_s x_0 + σ_s ε with x_0 = (x_t - σ_t ε)/α_t and guided ε, in float64."""
    if own_scheduler == "pndm":  # a config that does not say clip_sample, as Stable Diffusion's
        model.pipe.scheduler = PNDMScheduler.from_config(model.pipe.scheduler.config)
    level = signal_levels()
    points = walk_points(model)
    assert len(points) == WALK.steps
    for now, after in pairwise(points):
        t, s = int(now.timesteps[0]), int(after.timesteps[0])
        assert t > s
        u, c, x = (v.double().numpy() for v in (now.unconditional, now.conditional, now.x_t))
        noise = u + WALK.guidance * (c - u)
        x_0 = (x - np.sqrt(1 - level[t]) * noise) / np.sqrt(level[t])
        expected = np.sqrt(level[s]) * x_0 + np.sqrt(1 - level[s]) * noise
        np.testing.assert_allclose(after.x_t.numpy(), expected, rtol=0, atol=1e-4)


def test_noise_of_a_point_is_what_the_model_predicts_there(model):
    prompts = Prompts(model, CAPTIONS)
    for point in walk_points(model):
        with torch.no_grad():
            noise = model.predict_noise(point.x_t, point.timesteps, prompts.text)
        torch.testing.assert_close(point.conditional, noise, rtol=0, atol=1e-5)


def test_frozen_trajectories_give_points_with_their_own_time_caption_and_target(model):
    prompts = Prompts(model, CAPTIONS)
    source = FrozenTrajectories(model, prompts, eta=1.0, walk=WALK, each=2, seed=0)
    frozen = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in model.unet.parameters():
            tensor.zero_()
    examples = source.draw(16, torch.Generator().manual_seed(0))
    assert len(examples.timesteps.unique()) > 5
    with torch.no_grad():
        empty = frozen.embed_text([""]).expand_as(examples.text)
        conditional = frozen.predict_noise(examples.x_t, examples.timesteps, examples.text)
        unconditional = frozen.predict_noise(examples.x_t, examples.timesteps, empty)
    expected = 2 * unconditional - conditional
    torch.testing.assert_close(examples.target, expected, rtol=0, atol=1e-5)


def test_edited_trajectories_walk_with_the_student_and_are_taught_by_the_teacher(model):
    frozen = copy.deepcopy(model)
    prompts = Prompts(model, CAPTIONS)
    teacher = Teacher(select_parameters(model.unet, "full"))
    source = EditedTrajectories(model, teacher, prompts, eta=1.0, walk=WALK)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.unet.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=noise))
    examples = source.draw(4, torch.Generator().manual_seed(0))
    assert len(examples.timesteps.unique()) == 1

    replay = torch.Generator().manual_seed(0)
    prompts.draw(4, replay)
    stop = int(torch.randint(WALK.steps, (1,), generator=replay))
    x_t = torch.randn((4, *model.latent_shape), generator=replay)
    walk = list(denoise(model, x_t, examples.text, prompts.empty, WALK))
    assert stop > 0
    assert torch.equal(examples.x_t, walk[stop].x_t)
    assert torch.equal(examples.timesteps, walk[stop].timesteps)

    with torch.no_grad():
        empty = prompts.empty.expand_as(examples.text)
        conditional = frozen.predict_noise(examples.x_t, examples.timesteps, examples.text)
        unconditional = frozen.predict_noise(examples.x_t, examples.timesteps, empty)
    expected = 2 * unconditional - conditional
    torch.testing.assert_close(examples.target, expected, rtol=0, atol=1e-5)
