"""Guidance held back, against plain drawings and against a loop written out."""

import numpy as np
import pytest
import torch
from scipy.signal import argrelextrema
from tiny_pipelines import build

from pipeline.errors import ConfigError, ModelError
from pipeline.generation.backend import Sampling, fresh_model
from pipeline.mitigation.drawing import draw_mitigated
from pipeline.mitigation.options import TransitionOptions
from pipeline.mitigation.transition import Hold

CAPTIONS = ["a cat", "two dogs", "a red house"]
SEEDS = [11, 2**62 + 5, 33]
HOW = Sampling(steps=6, guidance=4.0)


def draw(model, how=HOW, **options):
    return draw_mitigated(model, CAPTIONS, SEEDS, how, TransitionOptions(**options))


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "sd3", "pixart"])
def test_nothing_held_is_plain_and_all_held_is_unguided(kind, tmp_path):
    model = fresh_model(build(kind, tmp_path / kind))
    plain = model.draw(CAPTIONS, SEEDS, HOW)
    assert np.array_equal(draw(model, share=0), plain)
    unguided = model.draw(CAPTIONS, SEEDS, Sampling(steps=6, guidance=1.0))
    held = draw(model, share=1, before=1)  # in a batch of another size: last bits
    assert np.abs(held.astype(int) - unguided).max() <= 1
    assert np.abs(plain.astype(int) - unguided).max() > 1
    empty = model.draw([""] * 3, SEEDS, Sampling(steps=6, guidance=1.0))
    if kind != "sdxl":  # whose unconditional prediction is not that of the empty caption
        assert np.abs(draw(model, share=1).astype(int) - empty).max() <= 1
    assert np.array_equal(model.draw(CAPTIONS, SEEDS, HOW), plain)  # nothing is left behind


def written_out(model, how, weights):
    """DDIM without noise (η = 0), with the weight of each step and picture, weights (S, n)."""
    scheduler, timesteps = model.start(how.steps)
    x_t, text = model.noise(SEEDS), model.conditions(CAPTIONS)
    nothing = model.unconditioned().expand(len(SEEDS))
    gaps = []
    for t, weight in zip(timesteps, weights, strict=True):
        times = t.expand(len(SEEDS))
        uncond, told = (model.output(x_t, times, c) for c in (nothing, text))
        gaps.append((told - uncond).square().sum(dim=(1, 2, 3)).sqrt())
        mixed = uncond + torch.tensor(weight).view(-1, 1, 1, 1) * (told - uncond)
        x_t = scheduler.step(mixed, t, x_t).prev_sample
    return x_t, torch.stack(gaps)


@torch.no_grad()
@pytest.mark.parametrize("before", [0.0, 1.0, -2.0])
def test_a_share_is_that_of_a_loop_written_out(model, before):
    from pipeline.generation.network import decode_latents

    weights = np.array([[before] * 3] * 2 + [[4.0] * 3] * 4, np.float32)
    expected = decode_latents(model, written_out(model, HOW, weights)[0])
    drawn = draw(model, share=1 / 3, before=before)
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    other = draw(model, share=1 / 2, before=before)
    assert np.abs(other.astype(int) - expected).max() > 1


def first_minima(gaps):
    """The step after each picture's first strict minimum, S where there is none."""
    steps, n = gaps.shape
    found = [argrelextrema(gaps[:, i], np.less)[0] for i in range(n)]
    return [int(minima[0]) + 1 if len(minima) else steps for minima in found]


def test_a_picture_is_held_until_its_own_first_minimum():
    gaps = np.random.default_rng(0).random((12, 50))
    gaps[:, 0] = np.linspace(1, 0, 12)  # falls to the end
    hold = Hold(TransitionOptions())
    held = np.stack([hold.held(i, 12, torch.tensor(row)).numpy() for i, row in enumerate(gaps)])
    points = first_minima(gaps)
    assert held.sum(axis=0).tolist() == points and min(points) == 2 and max(points) == 12
    assert (np.diff(held.astype(int), axis=0) <= 0).all()  # never held again


def test_latest_ends_the_wait():
    hold = Hold(TransitionOptions(latest=0.5))
    held = [bool(hold.held(i, 10, torch.tensor([1.0 / (i + 1)]))) for i in range(10)]
    assert held == [True] * 5 + [False] * 5


@torch.no_grad()
def test_the_minimum_is_that_of_the_drawing_itself(model, monkeypatch):
    """A hook asks Hold with the gaps of a trajectory that is held as it says."""
    asked = []
    own = Hold.held

    def spy(self, step, steps, gaps):
        held = own(self, step, steps, gaps)
        asked.append((step, steps, gaps.clone(), held))
        return held

    monkeypatch.setattr(Hold, "held", spy)
    how = Sampling(steps=12, guidance=6.0)
    drawn = draw(model, how)
    assert [row[:2] for row in asked] == [(i, 12) for i in range(12)]
    gaps = torch.stack([row[2] for row in asked]).numpy()
    held = torch.stack([row[3] for row in asked]).numpy()
    assert held.sum(axis=0).tolist() == first_minima(gaps)
    _, expected = written_out(model, how, np.where(held, 0, 6).astype(np.float32))
    assert np.allclose(gaps, expected.numpy(), rtol=1e-3)
    assert drawn.shape == (3, 16, 16, 3)


def test_two_drawings_do_not_share_a_point(model):
    from pipeline.mitigation.transition import held_guidance

    with held_guidance(model.pipe, TransitionOptions()):
        both = [model.draw(CAPTIONS, SEEDS, HOW) for _ in range(2)]
    assert np.array_equal(*both)


def test_where_nothing_is_guided_it_says_so(model, tmp_path):
    with pytest.raises(ConfigError, match="guidance above 1"):
        draw(model, Sampling(steps=2, guidance=1.0), share=0.5)
    with pytest.raises(ModelError, match="told the guidance"):
        draw(fresh_model(build("lcm", tmp_path / "lcm")), share=0.5)
