import hashlib

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sample_pictures import picture

from pipeline.encoders.timm_encoder import Timm
from pipeline.errors import MissingInput, ModelError, NonFiniteWeights, UnsafeWeights

MODEL = "test_resnet"  # timm's own smallest


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model(MODEL, pretrained=False).eval()


@pytest.fixture
def weights(network, tmp_path):
    """A published checkpoint as it comes, classifier and all."""
    path = tmp_path / "w.safetensors"
    save_file(dict(network.state_dict()), path)
    return path


def test_vectors_are_timm_s_pooled_features(network, weights):
    data = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**data, is_training=False)
    image = picture(0, 160, 160)
    with torch.inference_mode():
        raw = network.forward_head(
            network.forward_features(transform(image)[None]), pre_logits=True
        )
    expected = raw.double() / raw.double().norm(dim=1, keepdim=True)
    found = Timm(MODEL, weights=weights).encode([image]).vectors
    assert found.shape == tuple(expected.shape)
    assert float(found[0].astype(np.float64) @ expected[0].numpy()) > 0.999


def test_neighbours_in_the_batch_do_not_matter(weights):
    encoder = Timm(MODEL, weights=weights)
    pictures = [picture(i, 90 + i, 70) for i in range(5)]
    together = encoder.encode(pictures).vectors
    alone = np.concatenate([encoder.encode([image]).vectors for image in pictures])
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(np.linalg.norm(together.astype(np.float64), axis=1) - 1).max() < 1e-5


def test_the_size_is_the_user_s(weights):
    encoder = Timm(MODEL, weights=weights, size=96)
    assert encoder.fingerprint.split(":")[2] == "96"
    assert np.isfinite(encoder.encode([picture(0)]).vectors).all()


def test_a_pickle_with_its_digest(network, weights, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(network.state_dict(), path)
    with pytest.raises(UnsafeWeights, match="needs its sha256"):
        Timm(MODEL, weights=path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    same = Timm(MODEL, weights=path, sha256=digest).encode([picture(0)]).vectors
    assert np.array_equal(same, Timm(MODEL, weights=weights).encode([picture(0)]).vectors)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("conv1.weight", torch.zeros(1, 1), ModelError, "not weights of this architecture"),
        ("conv1.weight", None, ModelError, r"no tensor conv1\.weight"),
        ("bn1.running_var", torch.nan, NonFiniteWeights, r"bn1\.running_var holds NaN"),
    ],
)
def test_weights_must_fit_and_be_finite(network, tmp_path, name, value, error, message):
    if name not in network.state_dict():
        name, message = next(iter(network.state_dict())), message.replace(r"conv1\.weight", ".*")
    state = dict(network.state_dict())
    if value is None:
        del state[name]
    elif isinstance(value, torch.Tensor):
        state[name] = value
    else:
        state[name] = torch.full_like(state[name], value)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(error, match=message):
        Timm(MODEL, weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["nothing_of_the_kind", "hf-hub:someone/model", "local-dir:/tmp"])
def test_architectures_are_those_of_timm(name):
    with pytest.raises(ModelError, match="has no model"):
        Timm(name)


def test_weights_that_are_not_to_be_had(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network\nand more")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(MissingInput, match=r"no network$"):
        Timm(MODEL)
