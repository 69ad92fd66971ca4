import copy

import numpy as np
import pytest
import torch
from tiny_model import RESOLUTION

from pipeline.erasure.noised import NoisedPictures
from pipeline.erasure.parameters import Teacher, select_parameters
from pipeline.erasure.sources import AlsoUnconditional, Examples, Prompts, pick
from pipeline.erasure.targets import Target, no_pictures
from pipeline.errors import InputError


def signal_levels():
    """α_t² of the tiny model's schedule, in float64, from its definition."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


def latents_of(model, pictures):
    scaled = torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    with torch.no_grad():
        return 0.18215 * model.pipe.vae.encode(scaled).latent_dist.mean.double().numpy()


def noised_pictures(model, targets, eta=1.0):
    teacher = Teacher(select_parameters(model.unet, "full"))
    prompts = Prompts(model, [target.captions for target in targets])
    return NoisedPictures(model, teacher, targets, prompts, eta=eta)


def constant_noise(monkeypatch, value):
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.full(shape, value))


def test_x_t_is_alpha_x0_plus_sigma_noise_at_the_time_step_the_model_sees(
    model, targets, monkeypatch
):
    constant_noise(monkeypatch, 2.0)
    seen = []
    model.unet.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0], inputs[1])))
    target = targets[1]
    examples = noised_pictures(model, [target]).draw(32, torch.Generator().manual_seed(0))
    level = signal_levels()[examples.timesteps.numpy()].reshape(-1, 1, 1, 1)
    expected = np.sqrt(level) * latents_of(model, target.pictures) + np.sqrt(1 - level) * 2.0
    np.testing.assert_allclose(examples.x_t.numpy(), expected, rtol=0, atol=1e-5)
    (x_seen, t_seen), *more = seen
    assert not more
    assert torch.equal(x_seen, examples.x_t.repeat(2, 1, 1, 1))
    assert torch.equal(t_seen, examples.timesteps.repeat(2))


def test_time_steps_cover_the_whole_range(model, targets):
    timesteps = (
        noised_pictures(model, targets).draw(512, torch.Generator().manual_seed(0)).timesteps
    )
    assert timesteps.min() < 30
    assert timesteps.max() > 969


def test_a_picture_is_shown_under_its_own_captions_only(model, targets, monkeypatch):
    constant_noise(monkeypatch, 0.0)
    examples = noised_pictures(model, targets).draw(64, torch.Generator().manual_seed(0))
    level = signal_levels()[examples.timesteps.numpy()].reshape(-1, 1, 1, 1)
    x_0 = examples.x_t.numpy() / np.sqrt(level)
    latents = np.concatenate([latents_of(model, target.pictures) for target in targets])
    picture = np.abs(x_0[:, None] - latents[None]).max(axis=(2, 3, 4)).argmin(axis=1)
    with torch.no_grad():
        texts = model.embed_text([caption for target in targets for caption in target.captions])
    caption = (examples.text[:, None] - texts[None]).abs().amax(dim=(2, 3)).argmin(dim=1)
    pairs = set(zip(picture.tolist(), caption.tolist(), strict=True))
    assert pairs == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)}


def test_the_target_comes_from_the_model_before_training(model, targets):
    frozen = copy.deepcopy(model)
    source = noised_pictures(model, targets, eta=1.5)
    with torch.no_grad():
        for tensor in model.unet.parameters():
            tensor.add_(0.05)
    examples = source.draw(8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        empty = frozen.embed_text([""]).expand_as(examples.text)
        conditional = frozen.predict_noise(examples.x_t, examples.timesteps, examples.text)
        unconditional = frozen.predict_noise(examples.x_t, examples.timesteps, empty)
    expected = 2.5 * unconditional - 1.5 * conditional
    torch.testing.assert_close(examples.target, expected, rtol=0, atol=1e-5)


def test_half_of_the_examples_lose_their_caption_and_keep_their_target(model):
    class Fixed:
        def draw(self, count, generator):
            rising = torch.arange(count).float()
            return Examples(rising, rising, rising.view(-1, 1, 1).expand(-1, 2, 3) + 1, rising)

    source = AlsoUnconditional(Fixed(), torch.zeros(1, 2, 3))
    examples = source.draw(1000, torch.Generator().manual_seed(0))
    without = (examples.text == 0).all(dim=(1, 2))
    assert 440 < int(without.sum()) < 560
    kept = torch.arange(1000)[~without].float() + 1
    assert torch.equal(examples.text[~without][:, 0, 0], kept)
    assert torch.equal(examples.target, torch.arange(1000).float())


def test_prompts_are_drawn_by_group_first(model):
    prompts = Prompts(model, [["a", "b", "c", "d"], ["e"]])
    groups, captions = prompts.draw(4000, torch.Generator().manual_seed(0))
    assert set(captions[groups == 0].tolist()) == {0, 1, 2, 3}
    assert set(captions[groups == 1].tolist()) == {4}
    assert abs(int((groups == 1).sum()) - 2000) < 150


def test_pick_is_uniform_below_each_size():
    found = pick(torch.tensor([1, 5]).repeat(5000), torch.Generator().manual_seed(0)).view(-1, 2)
    assert found[:, 0].max() == 0
    counts = torch.bincount(found[:, 1])
    assert len(counts) == 5
    assert abs(counts - 1000).max() < 150


def test_a_target_without_its_picture_is_refused(model):
    with pytest.raises(InputError, match="target 3: esd-gt needs its picture"):
        noised_pictures(model, [Target(3, ("a hat",), no_pictures())])


def test_a_picture_of_another_size_is_refused(model):
    large = np.zeros((1, 2 * RESOLUTION, 2 * RESOLUTION, 3), np.uint8)
    with pytest.raises(InputError, match=r"32 pixels, the model draws 16"):
        noised_pictures(model, [Target(3, ("a hat",), large)])
