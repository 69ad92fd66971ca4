import hashlib

import numpy as np
import pytest
import torch
import torchvision
from sample_pictures import picture
from torchvision.transforms import v2

from pipeline.encoders.sscd import Sscd
from pipeline.errors import MissingInput, ModelError, NonFiniteWeights, UnsafeWeights


class Descriptor(torch.nn.Module):
    """A residual trunk and a projection, as SSCD's; resnet18 with random weights stands in."""

    def __init__(self):
        super().__init__()
        self.backbone = torchvision.models.resnet18(num_classes=64)

    def forward(self, x):
        return self.backbone(x)


def save_script(path, *, nan=False):
    torch.manual_seed(0)
    network = Descriptor().eval()
    if nan:
        network.backbone.fc.weight.data[0, 0] = torch.nan
    torch.jit.trace(network, torch.zeros(1, 3, 64, 64)).save(str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("sscd") / "sscd.torchscript.pt"
    return path, save_script(path)


def test_vectors_are_the_network_s_on_the_skewed_picture(script):
    path, digest = script
    encoder = Sscd(path, sha256=digest, size=64)
    pictures = [picture(i) for i in range(3)]
    transform = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    resized = [np.asarray(image.resize((64, 64), 3), np.float32) / 255 for image in pictures]
    batch = transform(torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2))
    with torch.inference_mode():
        raw = torch.jit.load(str(path))(batch).double()
    expected = (raw / raw.norm(dim=1, keepdim=True)).numpy()
    assert np.abs(encoder.encode(pictures).vectors - expected).max() < 3e-4  # a grey level
    assert encoder.fingerprint == f"sscd:64:{digest}"


def test_neighbours_in_the_batch_do_not_matter(script):
    encoder = Sscd(script[0], sha256=script[1], size=64)
    together = encoder.encode([picture(i) for i in range(4)]).vectors
    alone = np.concatenate([encoder.encode([picture(i)]).vectors for i in range(4)])
    assert np.abs(together - alone).max() < 1e-5


def test_another_digest_is_refused_before_anything_is_loaded(script, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UnsafeWeights, match="not the 0000"):
        Sscd(script[0], sha256="0" * 64)


def test_a_file_that_is_not_torchscript(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="not a TorchScript file"):
        Sscd(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    path.write_bytes(b"garbage")
    with pytest.raises(ModelError, match="not a TorchScript file"):
        Sscd(path, sha256=hashlib.sha256(b"garbage").hexdigest())
    with pytest.raises(MissingInput):
        Sscd(tmp_path / "nowhere.pt", sha256="0" * 64)


def test_weights_with_nan(tmp_path):
    path = tmp_path / "nan.pt"
    digest = save_script(path, nan=True)
    with pytest.raises(NonFiniteWeights, match=r"fc\.weight holds NaN"):
        Sscd(path, sha256=digest)
