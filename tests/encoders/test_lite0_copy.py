import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sample_pictures import picture

from pipeline.config import Encoder
from pipeline.encoders import build_encoder, metric_of
from pipeline.encoders.lite0 import network
from pipeline.encoders.lite0_copy import Lite0Copy, Pooled
from pipeline.encoders.transforms import Preparation
from pipeline.errors import ConfigError, MissingInput, ModelError, NonFiniteWeights, UnsafeWeights
from pipeline.io.digest import sha256_file

PICTURES = [picture(i, 200, 150) for i in range(4)]


def write(path, width=1280, d=24, seed=0, **changed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "mean": 0.02 * torch.randn(width, generator=generator),
        "projection": torch.randn(width, d, generator=generator),
    }
    save_file({k: v for k, v in (tensors | changed).items() if v is not None}, path)
    return path


@pytest.fixture
def weights(tmp_path):
    return write(tmp_path / "copy.safetensors")


def test_pooled_is_the_cube_mean_of_the_last_map():
    with torch.inference_mode():
        half = (0.5, 0.5, 0.5)
        maps = network("cpu").forward_features(Preparation(320, half, half, skew=True)(PICTURES))
    cubes = np.maximum(maps.double().numpy(), 0) ** 3
    expected = np.cbrt(cubes.mean(axis=(2, 3)))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert expected.shape == (4, 1280)
    assert np.abs(Pooled().encode(PICTURES).vectors - expected).max() < 1e-5


def test_vectors_are_the_pooled_ones_centred_and_projected(weights):
    found = Lite0Copy(weights).encode(PICTURES).vectors
    saved = Lite0Copy(weights)
    pooled = Pooled().encode(PICTURES).vectors.astype(np.float64)
    mapped = (pooled - saved._mean.numpy()) @ saved._projection.numpy()
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    assert (found.shape, found.dtype) == ((4, 24), np.float32)
    assert np.abs(found - mapped).max() < 1e-5


def test_neighbours_in_the_batch_do_not_matter(weights):
    encoder = Lite0Copy(weights)
    alone = np.concatenate([encoder.encode([image]).vectors for image in PICTURES])
    assert np.abs(encoder.encode(PICTURES).vectors - alone).max() < 1e-5


def test_the_fingerprint_names_size_network_and_whitening(weights, tmp_path):
    encoder = Lite0Copy(weights)
    assert encoder.fingerprint.startswith("lite0-copy:lite0-gem:320:")
    assert encoder.fingerprint.endswith(sha256_file(weights))
    other = write(tmp_path / "other.safetensors", seed=1)
    prints = {encoder.fingerprint, Lite0Copy(other).fingerprint}
    assert len(prints | {Lite0Copy(weights, size=160).fingerprint}) == 3


def test_the_configuration_builds_it(weights):
    spec = Encoder(kind="lite0-copy", weights=weights)
    assert metric_of(spec) == "cosine"
    assert isinstance(build_encoder(spec), Lite0Copy)
    with pytest.raises(ValueError, match="lite0-copy needs weights"):
        Encoder(kind="lite0-copy")


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"mean": None}, ModelError),
        ({"mean": torch.zeros(7)}, ModelError),
        ({"projection": torch.zeros(1280)}, ModelError),
        ({"projection": torch.zeros(7, 24)}, ModelError),
        ({"projection": torch.full((1280, 4), torch.nan)}, NonFiniteWeights),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, changed, error):
    path = write(tmp_path / "bad.safetensors", **changed)
    with pytest.raises(error) as refused:
        Lite0Copy(path)
    assert "\n" not in str(refused.value)


def test_damaged_missing_pickled_and_other_digests(tmp_path, weights):
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="damaged"):
        Lite0Copy(tmp_path / "cut.safetensors")
    with pytest.raises(MissingInput):
        Lite0Copy(tmp_path / "nowhere.safetensors")
    with pytest.raises(ModelError, match="safetensors"):
        Lite0Copy(tmp_path / "pickle.pt")
    with pytest.raises(UnsafeWeights):
        Lite0Copy(weights, sha256="0" * 64)
    assert not issubclass(UnsafeWeights, ConfigError)
