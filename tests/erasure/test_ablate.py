import copy

import numpy as np
import pytest
import torch
from erasure_references import alpha_sigma, latents_of, nearest, texts_of

from pipeline.erasure.ablate import Anchored
from pipeline.erasure.options import AblateOptions
from pipeline.erasure.parameters import Teacher, select_parameters
from pipeline.erasure.sources import Prompts
from pipeline.errors import InputError


def anchored(model, targets, variant="model"):
    teacher = Teacher(select_parameters(model.unet, "full"))
    prompts = Prompts(model, [target.captions for target in targets])
    return Anchored(model, teacher, targets, prompts, AblateOptions(variant=variant))


def examples_of(model, targets, variant, count=64):
    return anchored(model, targets, variant).draw(count, torch.Generator().manual_seed(0))


def test_the_noise_variant_is_fine_tuning_on_the_anchor_under_the_targets_caption(
    model, complete_targets
):
    """(x_t - σ_t T) / α_t is an anchor of the very target whose caption is shown."""
    examples = examples_of(model, complete_targets, "noise")
    alpha, sigma = alpha_sigma(examples.timesteps)
    x_0 = (examples.x_t.double().numpy() - sigma * examples.target.double().numpy()) / alpha
    latents = np.concatenate([latents_of(model, t.anchors) for t in complete_targets])
    found = nearest(x_0, latents)
    np.testing.assert_allclose(x_0, latents[found], rtol=0, atol=1e-4)
    captions = nearest(
        examples.text.numpy(), texts_of(model, ["a red hat", "hat, red", "blue bus"])
    )
    pairs = set(zip((found >= 3).tolist(), (captions == 2).tolist(), strict=True))
    assert pairs == {(False, False), (True, True)}
    assert set(found.tolist()) == set(range(5))
    assert set(captions.tolist()) == {0, 1, 2}


def test_the_model_variant_learns_the_frozen_prediction_under_the_anchors_own_caption(
    model, complete_targets
):
    frozen = copy.deepcopy(model)
    source = anchored(model, complete_targets)
    with torch.no_grad():
        for tensor in model.unet.parameters():
            tensor.add_(0.05)
    examples = source.draw(32, torch.Generator().manual_seed(0))
    plain = examples_of(frozen, complete_targets, "noise", 32)  # the same draw, and its noise
    assert torch.equal(plain.x_t, examples.x_t)
    alpha, sigma = alpha_sigma(plain.timesteps)
    x_0 = (plain.x_t.double().numpy() - sigma * plain.target.double().numpy()) / alpha
    latents = np.concatenate([latents_of(frozen, t.anchors) for t in complete_targets])
    captions = [caption for target in complete_targets for caption in target.anchor_captions]
    shown = [captions[i] for i in nearest(x_0, latents)]
    with torch.no_grad():
        text = frozen.embed_text(shown)
        expected = frozen.predict_noise(examples.x_t, examples.timesteps, text)
    torch.testing.assert_close(examples.target, expected, rtol=0, atol=1e-5)


def test_a_target_without_anchors_is_refused(model, targets):
    with pytest.raises(InputError, match="target 7: no anchors"):
        anchored(model, targets)
