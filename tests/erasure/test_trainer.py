import copy
import math

import numpy as np
import pytest
import torch
from tiny_model import build_tiny_pipeline

from pipeline.erasure.options import AblateOptions, AdversarialOptions
from pipeline.erasure.parameters import select_parameters
from pipeline.erasure.trainer import Settings, erase
from pipeline.errors import ConfigError, ModelError
from pipeline.generation.backend import DiffusionModel, fresh_model

RETAIN = ["a fish", "two birds", ""]
QUICK = {"iterations": 3, "batch": 4, "steps": 4, "trajectories_each": 2}
ALONE = {"retain_weight": 0.0}
METHODS = [
    {"method": "esd", "trajectories": "frozen"},
    {"method": "esd", "trajectories": "edited"},
    {"method": "esd-gt"},
]
SHORT = AdversarialOptions(inner_iterations=2, refresh=2)
PLUGINS = [
    {"method": "ablate"},
    {"method": "ablate", "ablate": AblateOptions(variant="noise")},
    {"method": "retrack"},
    {"method": "siss"},
    {"method": "adversarial", "adversarial": SHORT},
]


def weights(model: DiffusionModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}


def changed(before, after) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("method", METHODS + PLUGINS)
@pytest.mark.parametrize("group", ["x", "x-strict", "u", "full"])
def test_only_the_group_changes_and_the_rest_stays_bit_identical(
    model, complete_targets, method, group
):
    targets = complete_targets
    before = weights(model)
    text_encoder = copy.deepcopy(model.pipe.text_encoder.state_dict())
    group_names = set(select_parameters(model.unet, group))
    report = erase(model, targets, RETAIN, Settings(parameters=group, **method, **QUICK))
    moved = changed(before, weights(model))
    assert moved <= group_names
    assert any("attn2" in name for name in moved) == (group != "u")
    assert set(report.trained) == group_names
    assert report.n_trained_parameters == sum(before[name].numel() for name in group_names)
    for name, tensor in model.pipe.text_encoder.state_dict().items():
        assert torch.equal(tensor, text_encoder[name])


@pytest.mark.parametrize("method", METHODS + PLUGINS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(
    model, complete_targets, method
):
    targets = complete_targets
    runs = []
    for seed in (0, 0, 1):
        own = copy.deepcopy(model)
        report = erase(own, targets, RETAIN, Settings(seed=seed, **method, **QUICK))
        runs.append((weights(own), report))
    assert not changed(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert changed(runs[0][0], runs[2][0])


@pytest.mark.parametrize("method", METHODS)
def test_the_edited_prediction_moves_to_the_target_and_the_loss_falls(model, targets, method):
    frozen = copy.deepcopy(model)
    settings = Settings(
        parameters="full", iterations=40, batch=8, learning_rate=1e-3, steps=4, **ALONE, **method
    )
    report = erase(model, targets, [], settings)
    erase_losses = [losses.erase for losses in report.losses]
    assert np.mean(erase_losses[-10:]) < 0.5 * np.mean(erase_losses[:10])

    with torch.no_grad():
        text = model.embed_text([targets[0].captions[0]]).repeat(16, 1, 1)
        empty = model.embed_text([""]).repeat(16, 1, 1)
        x_t = torch.randn((16, *model.latent_shape), generator=torch.Generator().manual_seed(5))
        t = torch.full((16,), 751)
        away = 2 * frozen.predict_noise(x_t, t, empty) - frozen.predict_noise(x_t, t, text)
        before = (frozen.predict_noise(x_t, t, text) - away).square().mean()
        after = (model.predict_noise(x_t, t, text) - away).square().mean()
    assert after < 0.75 * before


def test_retaining_keeps_other_captions_closer_to_the_frozen_model(model, targets):
    def drift(retain_weight):
        edited = copy.deepcopy(model)
        settings = Settings(
            parameters="full",
            iterations=25,
            batch=8,
            learning_rate=1e-3,
            steps=4,
            retain_weight=retain_weight,
        )
        erase(edited, targets, RETAIN, settings)
        with torch.no_grad():
            text = model.embed_text(["two birds"]).repeat(16, 1, 1)
            noise = torch.Generator().manual_seed(5)
            x_t = torch.randn((16, *model.latent_shape), generator=noise)
            t = torch.full((16,), 751)
            gap = edited.predict_noise(x_t, t, text) - model.predict_noise(x_t, t, text)
        return float(gap.square().mean())

    assert drift(10.0) < 0.75 * drift(0.0)


def test_eta_minus_one_is_the_frozen_model_so_nothing_is_learnt(model, targets):
    report = erase(model, targets, [], Settings(eta=-1.0, **ALONE, **QUICK))
    assert report.losses[0].erase < 1e-10


class Velocity(torch.nn.Module):
    """A noise-predicting UNet that answers in v = (ε - σ x_t) / α."""

    def __init__(self, unet, alphas_cumprod):
        super().__init__()
        self.inner, self.levels = unet, alphas_cumprod
        self.config, self.dtype, self.device = unet.config, unet.dtype, unet.device

    def forward(self, x_t, timesteps, encoder_hidden_states):
        output = self.inner(x_t, timesteps, encoder_hidden_states=encoder_hidden_states)
        level = self.levels[timesteps.expand(len(x_t))].view(-1, 1, 1, 1)
        output.sample = (output.sample - (1 - level).sqrt() * x_t) / level.sqrt()
        return output


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weighting", ["noise", "velocity"])
def test_velocity_and_noise_models_have_the_same_objective(tmp_path, targets, method, weighting):
    settings = Settings(weighting=weighting, **method, **QUICK)
    folder = build_tiny_pipeline(tmp_path / "epsilon", prediction_type="epsilon")
    by_noise, by_velocity = fresh_model(folder), fresh_model(folder)
    scheduler = by_velocity.pipe.scheduler
    scheduler.register_to_config(prediction_type="v_prediction")
    by_velocity.pipe.register_modules(
        unet=Velocity(by_velocity.pipe.unet, scheduler.alphas_cumprod)
    )
    reports = [erase(model, targets, RETAIN, settings) for model in (by_noise, by_velocity)]
    first, second = (np.array([[x.erase, x.retain] for x in r.losses]) for r in reports)
    assert first[0, 0] > 1e-4
    np.testing.assert_allclose(first, second, rtol=2e-2, atol=1e-7)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-3, atol=1e-9)


def test_velocity_weighting_is_the_error_of_v(model, targets):
    """One example a step: the two losses differ by α² at its time step."""
    one = {**QUICK, "iterations": 1, "batch": 1, "method": "esd-gt"}
    plain = erase(copy.deepcopy(model), targets, [], Settings(weighting="noise", **ALONE, **one))
    weighted = erase(
        copy.deepcopy(model), targets, [], Settings(weighting="velocity", **ALONE, **one)
    )
    level = plain.losses[0].erase / weighted.losses[0].erase
    levels = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    assert np.abs(levels - level).min() < 1e-5


def test_every_iteration_is_reported_as_it_ends(model, targets):
    seen = []
    report = erase(
        model,
        targets,
        RETAIN,
        Settings(**QUICK),
        on_step=lambda n, losses: seen.append((n, losses)),
    )
    assert seen == list(enumerate(report.losses, start=1))
    assert all(math.isfinite(losses.erase + losses.retain) for losses in report.losses)


def test_erasing_the_empty_prompt_too_teaches_it(model, targets):
    """Without a retain loss, the unconditional prediction moves more when it is asked to."""

    def moved(flag):
        edited = copy.deepcopy(model)
        settings = Settings(
            erase_unconditional=flag,
            iterations=25,
            batch=8,
            learning_rate=1e-3,
            steps=4,
            **ALONE,
        )
        erase(edited, targets[:1], [], settings)
        with torch.no_grad():
            empty = model.embed_text([""]).repeat(16, 1, 1)
            text = model.embed_text(targets[0].captions[:1]).repeat(16, 1, 1)
            noise = torch.Generator().manual_seed(5)
            x_t = torch.randn((16, *model.latent_shape), generator=noise)
            t = torch.full((16,), 990)
            before = model.predict_noise(x_t, t, empty)
            away = 2 * before - model.predict_noise(x_t, t, text)
            return float((edited.predict_noise(x_t, t, empty) - away).square().mean())

    assert moved(True) < 0.7 * moved(False)


def test_the_empty_prompt_is_retained_unless_it_is_erased(model, targets):
    retained = [
        erase(
            copy.deepcopy(model),
            targets,
            [],
            Settings(**QUICK, learning_rate=1e-2, erase_unconditional=flag),
        )
        for flag in (False, True)
    ]
    assert retained[0].losses[-1].retain > 0
    assert retained[1].losses[-1].retain == 0


def test_nothing_to_erase_is_an_error(model):
    with pytest.raises(ConfigError, match="no targets"):
        erase(model, [], RETAIN, Settings())


def test_half_precision_weights_are_refused(model, targets):
    model.pipe.unet.half()
    with pytest.raises(ModelError, match="float32"):
        erase(model, targets, RETAIN, Settings())


def test_a_diverged_loss_is_an_error_that_names_the_mend(model, targets):
    with pytest.raises(ModelError, match="learning_rate"):
        erase(model, targets, [], Settings(**{**QUICK, "iterations": 20}, learning_rate=1e30))


@pytest.mark.parametrize("method", PLUGINS)
def test_every_target_is_learnt_together_with_the_retain_loss(model, complete_targets, method):
    settings = Settings(
        parameters="full", iterations=30, batch=8, learning_rate=1e-3, steps=4, **method
    )
    report = erase(model, complete_targets, RETAIN, settings)
    erase_losses = [losses.erase for losses in report.losses]
    if method["method"] != "siss":  # whose loss is of keeping alone, which forgetting works against
        assert np.mean(erase_losses[-10:]) < np.mean(erase_losses[:5])
    assert report.losses[0].retain < 1e-6
    assert report.losses[-1].retain > 0
    assert (report.iterations, report.diverged) == (30, False)


class Explodes:
    """Sound losses, then a rise beyond reason: what a learning rate that diverges looks like."""

    def __init__(self, parameter, sound, bad):
        self.parameter, self.sound, self.bad, self.calls = parameter, sound, bad, 0

    def accumulate(self, count, generator):
        del count, generator
        self.calls += 1
        self.parameter.grad = torch.full_like(self.parameter, -1.0)
        return 0.5 if self.calls <= self.sound else self.bad


@pytest.mark.parametrize("bad", [math.inf, math.nan, 1e4])
def test_a_diverging_rate_stops_and_keeps_the_last_good_weights(model, targets, monkeypatch, bad):
    name, parameter = next(iter(select_parameters(model.unet, "full").items()))
    before = weights(model)
    monkeypatch.setattr("pipeline.erasure.trainer.erasing", lambda *_: Explodes(parameter, 26, bad))
    settings = Settings(parameters="full", iterations=100, learning_rate=1e-3, steps=4, **ALONE)
    report = erase(model, targets, [], settings)
    assert (report.iterations, report.diverged, len(report.losses)) == (20, True, 20)
    moved = weights(model)
    assert changed(before, moved) == {name}  # Adam's steps are the rate where the gradient is 1
    torch.testing.assert_close(moved[name], before[name] + 20 * 1e-3, rtol=0, atol=1e-5)
    assert all(tensor.isfinite().all() for tensor in moved.values())


def test_where_nothing_was_learnt_the_model_is_left_as_it_was(model, targets):
    before = weights(model)
    with pytest.raises(ModelError, match="before anything was learnt"):
        erase(model, targets, [], Settings(**{**QUICK, "iterations": 20}, learning_rate=1e30))
    assert not changed(before, weights(model))


def test_a_last_step_that_diverges_is_noticed(model, targets):
    before = weights(model)
    with pytest.raises(ModelError, match="learning_rate"):
        erase(model, targets, [], Settings(**{**QUICK, "iterations": 1}, learning_rate=1e36))
    assert not changed(before, weights(model))


def test_a_second_copy_of_the_unet_is_refused(model, targets):
    """Averaged weights that stay unedited would draw everything again."""
    model.pipe.register_modules(unet_ema=copy.deepcopy(model.unet))
    with pytest.raises(ModelError, match="unet_ema: another UNet2DConditionModel"):
        erase(model, targets, RETAIN, Settings(**QUICK))


@pytest.mark.parametrize("field", ["method", "trajectories", "weighting"])
def test_an_unknown_name_is_a_config_error(field):
    with pytest.raises(ConfigError, match=f"{field} 'other'"):
        Settings(**{field: "other"})
