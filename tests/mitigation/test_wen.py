"""Wen's descent, against finite differences and against an optimiser of a single picture."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from tiny_pipelines import build

from pipeline.errors import ModelError
from pipeline.generation.backend import Sampling, fresh_model
from pipeline.generation.conditions import Conditions
from pipeline.mitigation.options import WenOptions
from pipeline.mitigation.wen import magnitudes, quietened

CAPTIONS = ["a cat", "two dogs", "a red house"]
SEEDS = [11, 2**62 + 5, 33]
HOW = Sampling(steps=4, guidance=3.0, scheduler="dpmsolver++")


def first_time(model):
    scheduler = DPMSolverMultistepScheduler.from_config(model.pipe.scheduler.config)
    scheduler.set_timesteps(HOW.steps)
    return scheduler.timesteps[:1]


def first_step(model, text):
    """m (n,) as a pipeline would find it at its first step: v-prediction, x_T unit noise."""
    x_t, nothing = model.noise(SEEDS), model.unconditioned().expand(len(text))
    times = first_time(model).expand(len(text))
    gap = model.output(x_t, times, text) - model.output(x_t, times, nothing)
    alpha, _ = model.alpha_sigma(times)
    return (alpha * gap).square().sum(dim=(1, 2, 3)).sqrt()  # ε = α v + σ x_t


def test_the_gradient_is_that_of_finite_differences_in_float64(tmp_path):
    model = fresh_model(build("sd1", tmp_path / "tiny"))
    for part in (model.pipe.unet, model.pipe.text_encoder):
        part.double()
    rng = np.random.default_rng(0)
    x_t, times = torch.tensor(rng.normal(size=(2, 4, 8, 8))), torch.tensor([999, 700])
    with torch.no_grad():
        states = model.embed_text(CAPTIONS[:2])
        eps_uncond = model.predict_noise(x_t, times, model.embed_text(["", ""]))

    def m(given):
        return magnitudes(model, x_t, times, Conditions({"text": given}), eps_uncond)

    given = states.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(m(given).sum(), given)
    for _ in range(3):
        direction = torch.tensor(rng.normal(size=states.shape))
        with torch.no_grad():
            step = 1e-5 * direction
            slope = (m(states + step) - m(states - step)).sum() / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_the_descent_is_each_pictures_own(model):
    """The same as AdamW on one embedding, written out, for each of the pictures alone."""
    options = WenOptions(target=1e-9, iterations=3, learning_rate=0.02)
    together = quietened(model, CAPTIONS, SEEDS, HOW, options).tensor("text")
    start = model.embed_text(CAPTIONS).detach()
    assert torch.equal(together[:, 0], start[:, 0])  # the first token stays
    for i, caption in enumerate(CAPTIONS):
        moved = start[i : i + 1, 1:].double()
        mean, square = torch.zeros_like(moved), torch.zeros_like(moved)
        x_t, t = model.noise([SEEDS[i]]), first_time(model)
        for step in range(1, 4):
            states = torch.cat([start[i : i + 1, :1], moved.float()], dim=1).requires_grad_()
            with torch.enable_grad():
                gap = model.predict_noise(x_t, t, states) - model.predict_noise(
                    x_t, t, model.unconditioned()
                )
                (gradient,) = torch.autograd.grad(gap.norm(), states)
            gradient = gradient[:, 1:].double()
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            unbiased = mean / (1 - 0.9**step), square / (1 - 0.999**step)
            moved = moved * (1 - 0.02 * 0.01) - 0.02 * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        differ = (together[i, 1:] - moved[0]).abs()  # the sign of a gradient near 0 is chance
        assert differ.quantile(0.99) < 1e-4 and differ.mean() < 1e-4, caption
        assert (moved[0] - start[i, 1:]).abs().max() > 0.03


@torch.no_grad()
def test_each_picture_stops_at_the_target(model):
    before = first_step(model, model.conditions(CAPTIONS))
    target = float(before.sort().values[1]) * 1.0001  # two of three are there already
    options = WenOptions(target=target, iterations=40, learning_rate=0.02)
    text = quietened(model, CAPTIONS, SEEDS, HOW, options)
    after = first_step(model, text)
    assert (after <= target * 1.0001).all()
    low = before <= target
    assert low.sum() == 2
    assert torch.equal(text.tensor("text")[low], model.conditions(CAPTIONS).tensor("text")[low])
    assert not torch.allclose(after[~low], before[~low])


def test_it_works_after_a_drawing(model):
    """A drawing leaves tensors of inference mode in the scheduler."""
    model.draw(CAPTIONS, SEEDS, Sampling(steps=2))
    how = Sampling(steps=2, scheduler="default")
    text = quietened(model, CAPTIONS, SEEDS, how, WenOptions(iterations=1))
    assert model.draw(text, SEEDS, how).shape == (3, 16, 16, 3)


def test_a_flow_model_is_refused(tmp_path):
    model = fresh_model(build("sd3", tmp_path / "tiny"))
    with pytest.raises(ModelError, match="flow"):
        quietened(model, CAPTIONS, SEEDS, Sampling(steps=2), WenOptions())
