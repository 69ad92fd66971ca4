import numpy as np
import pytest
from sample_pictures import picture

from pipeline.config import Embed, Encoder
from pipeline.encoders import build_encoder, metric_of
from pipeline.errors import UnsafeWeights


@pytest.mark.parametrize("kind", ["lite0", "pdq", "pixels"])
def test_the_default_encoders_are_built_once_and_fit_their_metric(kind):
    spec = Embed().encoders[kind]
    encoder = build_encoder(spec)
    assert build_encoder(Encoder(kind=kind)) is encoder
    assert metric_of(spec) == encoder.metric
    vectors = encoder.encode([picture(0), picture(1)]).vectors
    assert len(vectors) == 2
    if encoder.metric == "cosine":
        assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-5
    assert vectors.dtype == (np.uint8 if encoder.metric == "hamming" else np.float32)


def test_sizes_are_other_encoders():
    small, large = (build_encoder(Encoder(kind="pixels", size=size)) for size in (8, 16))
    assert small.encode([picture(0)]).vectors.shape == (1, 192)
    assert large.encode([picture(0)]).vectors.shape == (1, 768)
    assert small.fingerprint != large.fingerprint


def test_settings_reach_the_encoder(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(b"anything")
    for spec in (
        Encoder(kind="sscd", weights=path, sha256="0" * 64),
        Encoder(kind="timm", model="test_resnet", weights=path),
        Encoder(kind="open_clip", model="ViT-S-32-alt", weights=path, sha256="0" * 64),
    ):
        with pytest.raises(UnsafeWeights):
            build_encoder(spec)
