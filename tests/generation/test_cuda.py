import numpy as np
import pytest
import torch
from tiny_pipelines import build

from pipeline.generation.backend import NOTHING, Sampling, fresh_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CAPTIONS, SEEDS = ["a cat", "two dogs"], [1, 2]


def load(kind, folder, **settings):
    return fresh_model(folder, resolution=16 if kind == "flux" else None, **settings)


@torch.inference_mode()
def noise(model):
    told = NOTHING if model.unconditional else model.conditions(CAPTIONS, guidance=3.0)
    times = torch.tensor([700, 20], device=model.device)
    return model.predict_noise(model.noise(SEEDS), times, told).float().cpu()


@pytest.mark.parametrize("kind", ["sd2", "lcm", "sdxl", "sd3", "flux", "pixart", "ddpm", "ldm"])
def test_a_device_predicts_and_draws_what_the_cpu_does(tmp_path, kind):
    folder = build(kind, tmp_path / kind)
    here, there = load(kind, folder), load(kind, folder, device="cuda")
    expected = noise(here)
    assert (noise(there) - expected).abs().max() < 0.02 * expected.abs().max()
    how = Sampling(steps=3, guidance=3.0)
    far = there.draw(CAPTIONS, SEEDS, how).astype(int) - here.draw(CAPTIONS, SEEDS, how)
    assert np.abs(far).mean() < 3
    half = load(kind, folder, device="cuda", dtype="bfloat16")
    assert half.draw(CAPTIONS, SEEDS, how).std() > 1


@pytest.mark.parametrize("kind", ["sd2", "sd3"])
def test_a_compiled_network_predicts_the_same(tmp_path, kind):
    folder = build(kind, tmp_path / kind)
    plain = load(kind, folder, device="cuda")
    compiled = load(kind, folder, device="cuda", compiled=True)
    assert torch.allclose(noise(compiled), noise(plain), atol=1e-2)
    assert set(compiled.adapter.denoiser.state_dict()) == set(plain.adapter.denoiser.state_dict())
