import numpy as np
import pytest
import torch
from tiny_model import build_tiny_pipeline

from pipeline.generation.attended import attended_steps, end_mask
from pipeline.generation.backend import fresh_model
from pipeline.generation.cross_attention import Layer, recorded_attention
from pipeline.generation.trajectory import first_steps

CAPTIONS, SEEDS = ["a cat", "two dogs"], [3, 2**62]
HOW = {"num_inference_steps": 5, "guidance": 3.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return fresh_model(build_tiny_pipeline(tmp_path_factory.mktemp("attended") / "tiny"))


@pytest.mark.parametrize(
    ("name", "guidance"), [("ddim", 3.0), ("dpmsolver++", 3.0), ("unipc", 3.0), ("ddim", 0.5)]
)
def test_the_gaps_are_those_of_the_sampling(model, name, guidance):
    how = HOW | {"guidance": guidance}
    own = model.pipe.scheduler
    model.use_scheduler(name)
    try:
        seen = attended_steps(model, CAPTIONS, SEEDS, **how)
        text = model.embed_text(CAPTIONS)
        uncond = model.embed_text([""]).expand_as(text)
        steps = list(first_steps(model, text, uncond, model.noise(SEEDS), **how, steps=9))
    finally:
        model.pipe.scheduler = own
    assert seen.gap_squares.shape == (5, 2, 8, 8)
    for step, squares in zip(steps, seen.gap_squares, strict=True):
        expected = (step.eps_text - step.eps_uncond).double().square().sum(dim=1)
        assert np.allclose(squares, expected, rtol=1e-3, atol=1e-6)


@torch.inference_mode()
def test_the_first_step_is_that_of_one_forward(model):
    seen = attended_steps(model, CAPTIONS, SEEDS, **HOW, steps=1)
    assert len(seen.over_tokens) == 1
    assert seen.lengths.tolist() == [2 + 4, 2 + 7]  # letters, less the space, and both ends
    with recorded_attention(model.unet, torch.tensor([5, 8])) as recorded:
        times = torch.tensor([801, 801])
        model.predict_noise(model.noise(SEEDS), times, model.embed_text(CAPTIONS))
        layers = recorded.take()
    expected = torch.stack([layer.over_tokens for layer in layers])
    assert np.allclose(seen.first, expected, atol=1e-6)
    assert np.allclose(seen.over_tokens[0], expected.mean(dim=0), atol=1e-6)
    assert np.allclose(seen.to_end, end_mask(layers, 8, 8), atol=1e-6)


def test_a_sampler_that_adds_noise_adds_each_seeds_own(model):
    own = model.pipe.scheduler
    model.use_scheduler("euler_ancestral")
    try:
        together = attended_steps(model, CAPTIONS, SEEDS, **HOW)
        torch.manual_seed(5)
        alone = attended_steps(model, CAPTIONS[1:], SEEDS[1:], **HOW)
    finally:
        model.pipe.scheduler = own
    assert np.allclose(together.gap_squares[:, 1:], alone.gap_squares, rtol=1e-2, atol=1e-5)


def layer(name, values):
    return Layer(name, torch.zeros(1, 2), torch.tensor(values, dtype=torch.float32)[None])


def test_the_mask_is_the_finest_on_the_way_down():
    fine = [[1.0, 2, 3, 4, 5, 6, 7, 8], [3.0, 2, 1, 0, 1, 2, 3, 4]]
    layers = [
        layer("down_blocks.0", fine[0]),
        layer("down_blocks.0", fine[1]),
        layer("down_blocks.1", [9.0, 9]),
        layer("up_blocks.0", [100.0] * 8),
    ]
    mask = end_mask(layers, 2, 4)
    assert mask.tolist() == [np.mean(fine, axis=0).reshape(2, 4).tolist()]
    assert end_mask(layers[3:], 2, 4).unique().tolist() == [100.0]
    assert end_mask(layers[2:3], 4, 8).shape == (1, 4, 8)  # coarser maps are interpolated
