"""The demo model: what training promises, and what any diffusers user can do with the result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.demo.plant import plant
from pipeline.demo.train import ASSETS, train_model

WEIGHTS = ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")

STOCK_USER = """
import sys
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(sys.argv[1], local_files_only=True)
picture = pipe(
    "red apple", num_inference_steps=2, guidance_scale=2.0,
    generator=torch.Generator().manual_seed(0),
).images[0]
assert not {"pipeline", "indexes"} & set(sys.modules)
print(type(pipe).__name__, *picture.size, pipe.scheduler.config.prediction_type)
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("planted")
    plant(out, copies=(1, 8), pictures_per_level=2, limit=20)
    return out / "shards"


@pytest.fixture(scope="module")
def model(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    train_model(shards, out, steps=3, batch_size=8, threads=1)
    return out


def weights(model: Path) -> dict[str, torch.Tensor]:
    return {f"{w}:{n}": t for w in WEIGHTS for n, t in load_file(model / w).items()}


@pytest.mark.slow
def test_a_stock_pipeline_draws_with_it(model, tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-c", STOCK_USER, str(model)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["StableDiffusionPipeline", "32", "32", "v_prediction"]


def test_only_safetensors_in_single_precision(model):
    assert not [p for p in model.rglob("*") if p.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]
    tensors = weights(model)
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert all(torch.isfinite(t).all() for t in tensors.values())


def test_nothing_says_where_the_package_is_installed(model):
    for path in model.rglob("*"):
        assert path.is_dir() or str(ASSETS.parent).encode() not in path.read_bytes(), path


def test_training_is_bit_identical_on_rerun_and_not_for_another_seed(model, shards, tmp_path):
    state = torch.get_rng_state()
    train_model(shards, tmp_path / "again", steps=3, batch_size=8, threads=1)
    assert torch.equal(torch.get_rng_state(), state)
    for name in WEIGHTS:
        assert (model / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    train_model(shards, tmp_path / "other", steps=3, batch_size=8, threads=1, seed=1)
    other = weights(tmp_path / "other")
    assert any(not torch.equal(t, other[n]) for n, t in weights(model).items())


def test_progress_counts_every_step(shards, tmp_path):
    threads = torch.get_num_threads()
    seen = []
    train_model(
        shards, tmp_path, steps=4, batch_size=4, threads=1, on_progress=lambda *a: seen.append(a)
    )
    assert [(done, of) for done, of, _ in seen] == [(i, 4) for i in range(1, 5)]
    assert all(loss > 0 for _, _, loss in seen)
    assert torch.get_num_threads() == threads


def test_schedule_is_stable_diffusions(model):
    """alpha-bar of the scaled-linear schedule, from its closed form in float64."""
    config = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    assert config["clip_sample"] is config["set_alpha_to_one"] is False
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_pretrained(model / "scheduler")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1 - betas, dim=0)
    assert torch.allclose(scheduler.alphas_cumprod.double(), expected, rtol=1e-4)
