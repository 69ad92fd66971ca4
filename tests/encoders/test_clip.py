import hashlib

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sample_pictures import picture

from pipeline.encoders.clip import OpenClip
from pipeline.errors import ModelError, NonFiniteWeights, UnsafeWeights

MODEL = "ViT-tiny-test"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def tiny_architecture():
    """open_clip's own ViT tower, small, under a name of its own."""
    from open_clip import factory

    factory._MODEL_CONFIGS[MODEL] = CONFIG
    yield
    del factory._MODEL_CONFIGS[MODEL]


@pytest.fixture(scope="module")
def model(tiny_architecture):
    torch.manual_seed(0)
    return open_clip.create_model(MODEL).eval()


@pytest.fixture
def safe(model, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def test_vectors_are_those_of_open_clip(model, safe):
    _, _, transform = open_clip.create_model_and_transforms(MODEL)
    pictures = [picture(i) for i in range(3)]
    with torch.inference_mode():
        raw = model.encode_image(torch.stack([transform(image) for image in pictures])).double()
    expected = (raw / raw.norm(dim=1, keepdim=True)).numpy()
    found = OpenClip(MODEL, weights=safe).encode(pictures).vectors
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5


def test_bfloat16_is_near_float32_and_another_encoder(safe):
    exact, rounded = (OpenClip(MODEL, weights=safe, dtype=t) for t in ("float32", "bfloat16"))
    pictures = [picture(i) for i in range(4)]
    a, b = exact.encode(pictures).vectors, rounded.encode(pictures).vectors
    assert b.dtype == np.float32
    assert (a * b).sum(axis=1).min() > 0.999
    assert np.abs(a - b).max() > 0
    assert exact.fingerprint != rounded.fingerprint


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_training_checkpoint_with_its_digest_gives_the_same(model, safe, tmp_path, prefix):
    path = tmp_path / "w.pt"
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, path)
    with pytest.raises(UnsafeWeights, match="needs its sha256"):
        OpenClip(MODEL, weights=path)
    with pytest.raises(UnsafeWeights, match="not the 0000"):
        OpenClip(MODEL, weights=path, sha256="0" * 64)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    encoder = OpenClip(MODEL, weights=path, sha256=digest)
    expected = OpenClip(MODEL, weights=safe).encode([picture(0)]).vectors
    assert np.array_equal(encoder.encode([picture(0)]).vectors, expected)
    assert encoder.fingerprint == f"open_clip:{MODEL}:{digest}"


def test_neighbours_in_the_batch_do_not_matter(safe):
    encoder = OpenClip(MODEL, weights=safe)
    pictures = [picture(i, 90 + i, 70) for i in range(6)]
    together = encoder.encode(pictures).vectors
    alone = np.concatenate([encoder.encode([image]).vectors for image in pictures])
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(np.linalg.norm(together.astype(np.float64), axis=1) - 1).max() < 1e-5


def test_very_long_pictures(safe):
    assert OpenClip(MODEL, weights=safe).encode([Image.new("RGB", (1, 100_000))]).vectors.shape == (
        1,
        16,
    )


def test_weights_with_nan(model, tmp_path):
    state = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
    state["visual.proj"][0, 0] = torch.nan
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(NonFiniteWeights, match=r"visual\.proj holds NaN"):
        OpenClip(MODEL, weights=tmp_path / "w.safetensors")


def test_weights_of_another_architecture(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="not weights of this architecture"):
        OpenClip(MODEL, weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["ViT-nowhere", "hf-hub:someone/model", "local-dir:/tmp"])
def test_architectures_are_those_of_the_list(name):
    with pytest.raises(ModelError, match="has no model"):
        OpenClip(name, pretrained="openai")


def test_a_tag_cannot_smuggle_in_a_pickle(safe, model):
    """open_clip takes an unknown tag for a path."""
    path = safe.with_name("w.pt")
    torch.save(model.state_dict(), path)
    with pytest.raises(ModelError, match="no tag"):
        OpenClip(MODEL, pretrained=str(path))
    with pytest.raises(ModelError, match="give a pretrained tag or a weights file"):
        OpenClip(MODEL)


def test_a_published_architecture(tmp_path):
    """ViT-S-32-alt as published, with weights drawn here."""
    source = open_clip.create_model("ViT-S-32-alt")
    save_file(
        {n: v.contiguous() for n, v in source.state_dict().items()}, tmp_path / "w.safetensors"
    )
    vectors = (
        OpenClip("ViT-S-32-alt", weights=tmp_path / "w.safetensors").encode([picture(0)]).vectors
    )
    assert vectors.shape == (1, 256)
