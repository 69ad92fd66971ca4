import numpy as np
import pytest
import torch
from tiny_model import build_tiny_pipeline

from pipeline.errors import ModelError
from pipeline.generation.backend import fresh_model
from pipeline.generation.one_step import one_step_pictures

CAPTIONS, SEEDS = ["a cat", "two dogs"], [3, 4]


@pytest.fixture(params=["v_prediction", "epsilon"])
def model(request, tmp_path):
    return fresh_model(build_tiny_pipeline(tmp_path / "tiny", prediction_type=request.param))


@torch.inference_mode()
def test_one_euler_step_by_hand(model):
    pictures = one_step_pictures(model, CAPTIONS, SEEDS, guidance=7.5)
    assert pictures.shape == (2, 16, 16, 3) and pictures.dtype == np.uint8
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = np.sqrt(np.cumprod(1 - betas)[999])
    sigma = np.sqrt(1 - alpha**2)
    t, x = torch.tensor([999, 999]), model.noise(SEEDS)
    text = model.embed_text(CAPTIONS)
    u = model.predict_noise(x, t, model.embed_text(["", ""])).numpy()
    c = model.predict_noise(x, t, text).numpy()
    # k-diffusion: from sigma_max = sigma / alpha to 0, on x / alpha
    latents = x.numpy() / alpha + (0 - sigma / alpha) * (u + 7.5 * (c - u))
    scaled = torch.from_numpy(latents).float() / model.pipe.vae.config.scaling_factor
    pixels = model.pipe.vae.decode(scaled).sample.permute(0, 2, 3, 1).numpy()
    expected = (pixels / 2 + 0.5).clip(0, 1) * 255
    assert np.abs(pictures - expected).max() < 1.5
    assert pictures.std() > 5


def test_the_sampler_of_the_model_does_not_matter(model):
    pictures = one_step_pictures(model, CAPTIONS, SEEDS, guidance=2.0)
    model.use_scheduler("euler")
    again = one_step_pictures(model, CAPTIONS, SEEDS, guidance=2.0)
    assert np.abs(pictures.astype(int) - again).max() <= 1


def test_a_flow_model_and_a_broken_one_are_refused(model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "flows", property(lambda _: True))
        with pytest.raises(ModelError, match="flow"):
            one_step_pictures(model, CAPTIONS, SEEDS, guidance=2.0)
    torch.nn.init.constant_(model.pipe.vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(ModelError, match="finite"):
        one_step_pictures(model, CAPTIONS, SEEDS, guidance=2.0)
