"""Encoders that a configuration may name."""

import pytest
from refused_config import refused


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "resnet"}, "kind"),
        ({"kind": "open_clip"}, "needs a model name"),
        ({"kind": "timm"}, "needs a model name"),
        ({"kind": "sscd", "weights": "x.pt"}, "needs weights (a TorchScript file) and its sha256"),
        ({"kind": "sscd", "weights": "x.pt", "sha256": "abc"}, "sha256"),
        ({"kind": "sscd", "weights": "x.pt", "sha256": "A" * 64}, "sha256"),
        ({"kind": "pdq", "size": 0}, "size"),
    ],
)
def test_encoders_are_complete(spec, message):
    assert message in refused({"embed": {"encoders": {"lite0": spec}}})


@pytest.mark.parametrize("name", ["../x", "a b", "", "a/b", "a.b", "---"])
def test_encoder_names_are_folder_names(name):
    assert "letters, digits, - and _ only" in refused(
        {"embed": {"encoders": {name: {"kind": "pdq"}}}}
    )
