"""The loss against a forward pass written out here, and against a model known in closed form."""

import copy

import numpy as np
import pytest
import torch
from memory_model import CAPTIONS, memory_model, pictures
from tiny_pipelines import build

from pipeline.erasure.denoising_loss import denoising_loss, midpoints
from pipeline.errors import ModelError
from pipeline.generation.backend import fresh_model

SEEDS, TIMES = [11, 12, 13], [60, 500, 930]


def _by_hand(model, picture, caption, timestep, seed):
    """In float64, one picture, by the pipeline's own components alone."""
    pipe = model.pipe
    pixels = torch.tensor(picture)[None].permute(0, 3, 1, 2) / 127.5 - 1
    x_0 = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    tokens = pipe.tokenizer(
        caption, padding="max_length", max_length=pipe.tokenizer.model_max_length,
        truncation=True, return_tensors="pt",
    )  # fmt: skip
    states = pipe.text_encoder(tokens.input_ids)[0]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(x_0.shape[1:], generator=generator)[None]
    level = float(pipe.scheduler.alphas_cumprod[timestep])
    x_t = level**0.5 * x_0 + (1 - level) ** 0.5 * noise
    out = pipe.unet(x_t, torch.tensor([timestep]), encoder_hidden_states=states).sample.double()
    if pipe.scheduler.config.prediction_type == "v_prediction":
        out = level**0.5 * out + (1 - level) ** 0.5 * x_t
    return float((out - noise).square().mean())


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_it_is_the_mean_squared_error_of_the_noise(tmp_path, kind):
    model = fresh_model(build(kind, tmp_path / "m"))
    captions = ["a cat", "", "two dogs"]
    with torch.no_grad():
        x_0 = model.encode_pictures(pictures())
        found = denoising_loss(model, x_0, captions, torch.tensor(TIMES), SEEDS)
        expected = [
            _by_hand(model, p, c, t, s)
            for p, c, t, s in zip(pictures(), captions, TIMES, SEEDS, strict=True)
        ]
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_loss_is_of_its_picture_alone_whatever_the_batch(tmp_path):
    model = fresh_model(build("sd1", tmp_path / "m"))
    with torch.no_grad():
        x_0 = model.encode_pictures(pictures())
    times = torch.tensor(TIMES)
    together = denoising_loss(model, x_0, ["a", "b", "c"], times, SEEDS)
    alone = [
        denoising_loss(model, x_0[i : i + 1], [c], times[i : i + 1], [SEEDS[i]])[0]
        for i, c in enumerate("abc")
    ]
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("kind", ["sdxl", "pixart", "sd3", "flux"])
def test_every_architecture_that_predicts(tmp_path, kind):
    model = fresh_model(build(kind, tmp_path / "m"), resolution=16)
    with torch.no_grad():
        x_0 = model.encode_pictures(pictures())
    found = denoising_loss(model, x_0, ["a", "b", "c"], torch.tensor(TIMES), SEEDS)
    assert np.isfinite(found).all() and min(found) > 0


def test_forgetting_raises_the_loss_on_what_was_forgotten_alone(tmp_path):
    before = memory_model(tmp_path / "a", memory=(0, 1))
    after = memory_model(tmp_path / "b", memory=(1,))
    seen = pictures()[:2]
    losses = {}
    for name, model in (("before", before), ("after", after)):
        with torch.no_grad():
            x_0 = model.encode_pictures(seen)
        times = torch.tensor([500, 500])
        losses[name] = denoising_loss(model, x_0, list(CAPTIONS), times, SEEDS[:2])
    (erased, kept), (erased_after, kept_after) = losses["before"], losses["after"]
    assert erased < 0.05 and kept < 0.05  # an exact memory knows the noise
    assert erased_after > 10 * erased
    assert kept_after == pytest.approx(kept, rel=0.05)


def test_predictions_that_are_not_finite_are_an_error(tmp_path):
    model = fresh_model(build("sd1", tmp_path / "m"))
    with torch.no_grad():
        x_0 = model.encode_pictures(pictures()[:1])
        model.unet.conv_out.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match="not finite"):
        denoising_loss(model, x_0, ["a"], torch.tensor([500]), [1])


def test_the_model_is_left_as_it_was(tmp_path):
    model = fresh_model(build("sd1", tmp_path / "m"))
    before = copy.deepcopy(model.unet.state_dict())
    with torch.no_grad():
        x_0 = model.encode_pictures(pictures()[:1])
    denoising_loss(model, x_0, ["a"], torch.tensor([500]), [1])
    assert all(torch.equal(before[name], value) for name, value in model.unet.state_dict().items())


@pytest.mark.parametrize(
    ("horizon", "levels", "expected"),
    [(1000, 4, [125, 375, 625, 875]), (1000, 1, [500]), (3, 8, [0, 1, 2]), (1, 4, [0])],
)
def test_levels_are_the_middles_of_equal_stretches(horizon, levels, expected):
    assert midpoints(horizon, levels) == expected
