import copy

import numpy as np
import pytest
import torch

from pipeline.erasure.options import UceOptions
from pipeline.erasure.trainer import Settings, erase
from pipeline.erasure.uce import edit, right_factor
from pipeline.errors import ModelError

OPTIONS = UceOptions(ridge=0.3, erase_scale=1.7, keep_scale=0.6)


def test_the_closed_form_is_the_least_squares_solution_in_float64():
    """The same objective as one over-determined system, solved row by row by a QR-based solver."""
    rng = np.random.default_rng(0)
    d, out = 6, 5
    erased, meant = rng.normal(size=(2, 9, d))
    kept, original = rng.normal(size=(7, d)), rng.normal(size=(out, d))
    s_e, s_p, ridge = OPTIONS.erase_scale, OPTIONS.keep_scale, OPTIONS.ridge
    system = np.concatenate(
        [np.sqrt(s_e) * erased, np.sqrt(s_p) * kept, np.sqrt(ridge) * np.eye(d)]
    )
    wanted = np.concatenate(
        [
            np.sqrt(s_e) * meant @ original.T,
            np.sqrt(s_p) * kept @ original.T,
            np.sqrt(ridge) * original.T,
        ]
    )
    expected = np.linalg.lstsq(system, wanted, rcond=None)[0].T
    factor = right_factor(*map(torch.from_numpy, (erased, meant, kept)), OPTIONS).numpy()
    np.testing.assert_allclose(original @ factor, expected, rtol=0, atol=1e-12)


def test_nothing_to_erase_changes_nothing():
    rng = np.random.default_rng(0)
    states = torch.from_numpy(rng.normal(size=(4, 6)))
    factor = right_factor(states, states, states, OPTIONS)
    torch.testing.assert_close(factor, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-12)


def cross(model):
    return {
        name: tensor.detach().clone()
        for name, tensor in model.unet.named_parameters()
        if ".attn2.to_k." in name or ".attn2.to_v." in name
    }


def test_keys_and_values_of_the_captions_become_those_of_the_empty_prompt(model):
    """Every matrix, not the first alone; kept captions move less than without the keeping term."""

    def gaps(edited, caption, meant):
        with torch.no_grad():
            states, aim = model.embed_text([caption])[0], model.embed_text([meant])[0]
        now, then = cross(edited), cross(model)
        return [float((states @ now[name].T - aim @ then[name].T).norm()) for name in then]

    edited, careless = copy.deepcopy(model), copy.deepcopy(model)
    edit(edited, ["a red hat"], ["two birds"], UceOptions(ridge=1e-3))
    edit(careless, ["a red hat"], [], UceOptions(ridge=1e-3, keep_scale=0))
    for before, after in zip(
        gaps(model, "a red hat", ""), gaps(careless, "a red hat", ""), strict=True
    ):
        assert after < 0.2 * before
    for before, after in zip(
        gaps(model, "a red hat", ""), gaps(edited, "a red hat", ""), strict=True
    ):
        assert after < 0.8 * before
    for with_keeping, without in zip(
        gaps(edited, "two birds", "two birds"),
        gaps(careless, "two birds", "two birds"),
        strict=True,
    ):
        assert with_keeping < 0.5 * without


def test_it_runs_through_the_trainer_and_reports_what_it_changed(model, targets):
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    report = erase(model, targets, ["two birds"], Settings(method="uce"))
    changed = {n for n, t in model.unet.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == set(report.trained) == set(cross(model))
    assert report.losses == ()
    assert not report.diverged


def test_a_width_that_is_not_the_texts_is_refused(model, monkeypatch):
    wide = torch.zeros(1, 24, 32)
    monkeypatch.setattr(model, "embed_text", lambda captions: wide.expand(len(captions), -1, -1))
    with pytest.raises(ModelError, match="no text states of 32"):
        edit(model, ["a"], [], UceOptions())


def test_a_model_without_cross_attention_is_refused(model):
    model.pipe.unet.down_blocks = torch.nn.ModuleList()
    model.pipe.unet.up_blocks = torch.nn.ModuleList()
    model.pipe.unet.mid_block = None
    with pytest.raises(ModelError, match="x-strict"):
        edit(model, ["a"], [], UceOptions())
