"""The inner loop finds what draws the picture; the outer one closes that way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from erasure_references import alpha_sigma, latents_of, nearest, texts_of
from memory_model import CAPTIONS, OTHERS, memory_model, pictures

from pipeline.erasure.adversarial import Adversarial
from pipeline.erasure.attacks import drawing
from pipeline.erasure.options import AdversarialOptions
from pipeline.erasure.sources import Prompts
from pipeline.erasure.targets import Target
from pipeline.erasure.trajectories import Walk
from pipeline.errors import InputError

QUICK = AdversarialOptions(inner_iterations=2, refresh=3, pool=2)


def adversarial(model, targets, options=QUICK, others=OTHERS):
    prompts = Prompts(model, [target.captions for target in targets])
    return Adversarial(model, targets, prompts, others, options)


def test_anchors_are_taught_under_captions_and_found_embeddings_of_their_own_target(
    model, complete_targets
):
    source = adversarial(model, complete_targets)
    examples = source.draw(256, torch.Generator().manual_seed(0))
    alpha, sigma = alpha_sigma(examples.timesteps)
    x_0 = (examples.x_t.double().numpy() - sigma * examples.target.double().numpy()) / alpha
    latents = np.concatenate([latents_of(model, t.anchors) for t in complete_targets])
    found = nearest(x_0, latents)
    np.testing.assert_allclose(x_0, latents[found], rtol=0, atol=1e-4)
    captions = texts_of(model, ["a red hat", "hat, red", "blue bus"])
    pool = torch.cat(source._pool).numpy()
    text = nearest(examples.text.numpy(), np.concatenate([captions, pool]))
    np.testing.assert_array_equal(examples.text.numpy(), np.concatenate([captions, pool])[text])
    is_second = np.array([False, False, True, False, True])  # of captions, then of the pool
    assert (is_second[text] == (found >= 3)).all()
    assert 90 < (text >= 3).sum() < 166


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 64)])
def test_the_share_of_found_embeddings(model, complete_targets, share, expected):
    source = adversarial(model, complete_targets, QUICK.model_copy(update={"share": share}))
    examples = source.draw(64, torch.Generator().manual_seed(0))
    captions = texts_of(model, ["a red hat", "hat, red", "blue bus"])
    distance = np.abs(examples.text.numpy()[:, None] - captions[None]).max(axis=(2, 3)).min(axis=1)
    assert (distance > 1e-6).sum() == expected


def test_the_search_is_repeated_and_the_pool_is_bounded(model, complete_targets, monkeypatch):
    source, generator = adversarial(model, complete_targets), torch.Generator().manual_seed(0)
    searches = []
    search = source._search
    monkeypatch.setattr(source, "_search", lambda g: searches.append(1) or search(g))
    sizes = []
    for _ in range(10):
        source.draw(4, generator)
        sizes.append((len(searches), len(source._pool)))
    assert sizes == [(1, 1)] * 3 + [(2, 2)] * 3 + [(3, 2)] * 3 + [(4, 2)]


@pytest.mark.parametrize("start", ["caption", "gaussian", "other"])
def test_the_inner_loop_finds_a_hidden_picture_from_any_start(tmp_path, start):
    """No caption reaches the picture; what the inner loop finds draws it."""
    model = memory_model(tmp_path / "model", hidden=(0,))
    own = pictures()
    target = Target(1, CAPTIONS[:1], own[:1], anchors=own[2:], anchor_captions=("a cat",))
    options = AdversarialOptions(starts=(start,))
    source = adversarial(model, [target], options)
    found = source._search(torch.Generator().manual_seed(0))
    x_0 = model.encode_pictures(own[:1])
    with torch.no_grad():
        noise = torch.randn(4, *model.latent_shape, generator=torch.Generator().manual_seed(1))

        def drawn(text):
            text = text.expand(4, -1, -1)
            latents = drawing.sample(model, noise, text, Walk(10, 1.0), start=999)
            return float((latents - x_0).square().mean(dim=(1, 2, 3)).min())

        assert drawn(found) < 0.01
        assert drawn(model.embed_text(CAPTIONS[:1])) > 0.3


def test_targets_without_anchors_are_refused(model, targets, complete_targets):
    with pytest.raises(InputError, match="target 7: no anchors"):
        adversarial(model, targets)
    bare = [replace(target, pictures=target.pictures[:0]) for target in complete_targets]
    with pytest.raises(InputError, match="target 7: adversarial needs its picture"):
        adversarial(model, bare)
