"""Attacks on models whose memory is known: held, hidden from every caption, or not there."""

import numpy as np
import pytest
import torch
from memory_model import CAPTIONS, OTHERS, UNSEEN, memory_model, pictures

from pipeline.detection.tiled_l2 import pairwise_tiled_l2
from pipeline.erasure.attacks import drawing
from pipeline.erasure.attacks.budgets import (
    CompletionBudget,
    EmbeddingBudget,
    InpaintingBudget,
    PrefixBudget,
    RelearningBudget,
)
from pipeline.erasure.attacks.embedding import denoising_loss, invert, starting_point
from pipeline.erasure.attacks.prefix import PrefixSearch
from pipeline.erasure.attacks.run import run_attack
from pipeline.erasure.attacks.subject import Subject
from pipeline.erasure.trajectories import Walk
from pipeline.errors import InputError, ModelError

WALK = Walk(steps=10, guidance=2.0)
SUGGESTIVE = EmbeddingBudget(attempts=2, draws=2)
ATTACKS = [
    SUGGESTIVE,
    EmbeddingBudget(attempts=2, draws=2, start="gaussian"),
    EmbeddingBudget(start="other", optimizer="sign", learning_rate=0.02, draws=2),
    EmbeddingBudget(start="other", optimizer="sgd", learning_rate=20.0, draws=2),
    EmbeddingBudget(optimizer="adamw", weighting="velocity", draws=2),
    PrefixBudget(draws=2),
    CompletionBudget(start=0.5),
    InpaintingBudget(),
    RelearningBudget(learning_rate=0.01, iterations=30, draws=2),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    return {
        "held": memory_model(folder / "held"),
        "hidden": memory_model(folder / "hidden", hidden=(0,)),
        "absent": memory_model(folder / "absent", memory=(1,)),
    }


def subject(number, *captions):
    return Subject(pictures()[number], captions or (*CAPTIONS, UNSEEN)[number : number + 1], OTHERS)


def distances(model, attempts, number):
    """Tiled l2 (attempts, draws) of what the attack itself drew to what the picture decodes to."""
    with torch.no_grad():
        wanted = drawing.decode_latents(model, model.encode_pictures(pictures()[number][None]))
    top, left, bottom, right = attempts.box
    n, draws, side = attempts.pictures.shape[:3]
    rows = slice(int(top * side), int(bottom * side))
    columns = slice(int(left * side), int(right * side))
    drawn = attempts.pictures.reshape(n * draws, side, side, 3)[:, rows, columns]
    return pairwise_tiled_l2(drawn, wanted[:, rows, columns]).reshape(n, draws)


def best(model, budget, number):
    found = run_attack(model, subject(number), budget, WALK, seed=0)
    return distances(model, found, number).min(axis=1)


@pytest.mark.parametrize("budget", ATTACKS)
def test_what_the_model_holds_is_brought_back_and_nothing_else_is(models, budget):
    assert (best(models["held"], budget, 0) < 0.05).all()
    assert (best(models["hidden"], budget, 0) < 0.05).all()
    assert (best(models["absent"], budget, 0) > 0.15).all()
    assert (best(models["held"], budget, 2) > 0.15).all()


@pytest.mark.parametrize("guidance", [0.0, 0.5])
@pytest.mark.parametrize("whose", ["walk", "budget"])
def test_guidance_of_one_or_less_is_none_as_in_pipelines(models, whose, guidance):
    """A distilled model is drawn with guidance 0, which must not mean: without the caption."""
    how = (None, Walk(10, guidance)) if whose == "walk" else (guidance, WALK)
    seen, plain = (
        run_attack(models["held"], subject(0), CompletionBudget(guidance=own), walk, seed=0)
        for own, walk in (how, (1.0, WALK))
    )
    assert np.array_equal(seen.pictures, plain.pictures)
    assert seen.forwards == plain.forwards


def test_plain_drawing_does_not_show_a_hidden_picture(models):
    """The attack, not the caption, brings it back: without iterations worth the name it fails."""
    idle = SUGGESTIVE.model_copy(update={"iterations": 1, "learning_rate": 1e-9})
    assert (best(models["held"], idle, 0) < 0.05).all()
    assert (best(models["hidden"], idle, 0) > 0.15).all()


def test_an_attack_leaves_the_model_as_it_was_and_repeats_itself(models):
    model = models["absent"]
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    for budget in (EmbeddingBudget(iterations=3), PrefixBudget(iterations=3), *ATTACKS[-3:]):
        first = run_attack(model, subject(0), budget, WALK, seed=0)
        again = run_attack(model, subject(0), budget, WALK, seed=0)
        other = run_attack(model, subject(0), budget, WALK, seed=1)
        assert np.array_equal(first.pictures, again.pictures)
        assert not np.array_equal(first.pictures, other.pictures)
        for name, tensor in model.unet.state_dict().items():
            assert torch.equal(tensor, before[name])
        assert all(tensor.grad is None for tensor in model.unet.parameters())


def test_an_attempt_does_not_depend_on_how_many_there_are(models):
    few, many = (
        run_attack(
            models["held"],
            subject(0),
            EmbeddingBudget(attempts=n, iterations=3, start="gaussian"),
            WALK,
            seed=0,
        ).pictures
        for n in (2, 6)
    )
    assert np.abs(few.astype(int) - many[:2]).max() <= 1  # the last bits of batched arithmetic


def test_attempts_take_captions_in_turn_and_start_where_the_budget_says(models):
    model, own = models["held"], torch.Generator().manual_seed(0)
    two = subject(0, "a red hat", "hat, red")
    with torch.no_grad():
        caption = starting_point(model, two, "caption", 3, own)
    assert torch.equal(caption, model.embed_text(["hat, red"]))
    assert torch.equal(starting_point(model, two, "other", 4, own), model.embed_text([OTHERS[1]]))
    with torch.no_grad():
        noise = starting_point(model, two, "gaussian", 0, own)
    assert noise.shape == caption.shape
    assert float(noise.std()) == pytest.approx(float(caption.std()), rel=0.2)
    assert abs(float(torch.corrcoef(torch.stack([noise.ravel(), caption.ravel()]))[0, 1])) < 0.2


def test_the_gradient_of_the_attack_is_that_of_the_loss(models):
    """Central differences in float64's place: along the gradient the loss changes as it says."""
    model = models["held"]
    with torch.no_grad():
        x_0 = model.encode_pictures(pictures()[:1])
        start = starting_point(model, subject(0), "other", 0, torch.Generator())

    def loss(states):
        generator = torch.Generator().manual_seed(3)
        return denoising_loss(model, x_0, states, [generator], 64, "noise")

    states = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(states), states)
    along = gradient / gradient.norm()
    step = 1e-2
    with torch.no_grad():
        slope = (loss(start + step * along) - loss(start - step * along)) / (2 * step)
    assert float(slope) == pytest.approx(float(gradient.norm()), rel=0.05)


def test_noise_and_levels_are_fresh_in_every_iteration(models, monkeypatch):
    model, seen = models["held"], []
    original = model.predict_noise

    def spy(x_t, timesteps, text):
        seen.append((x_t.detach().clone(), timesteps.clone()))
        return original(x_t, timesteps, text)

    monkeypatch.setattr(model, "predict_noise", spy)
    with torch.no_grad():
        x_0 = model.encode_pictures(pictures()[:1])
        start = model.embed_text(["a red hat"])
    budget = EmbeddingBudget(iterations=4, batch=5)
    invert(model, x_0, start, [torch.Generator().manual_seed(0)], budget)
    assert [len(times) for _, times in seen] == [5] * 4
    assert len({tuple(times.tolist()) for _, times in seen}) == 4


def test_one_embedding_of_many_is_optimised_as_if_alone(models):
    model = models["held"]
    with torch.no_grad():
        x_0 = model.encode_pictures(pictures()[:2])
        start = model.embed_text(list(OTHERS[:2]))
    budget = EmbeddingBudget(iterations=10)

    def seeds():
        return [torch.Generator().manual_seed(number) for number in (0, 1)]

    together = invert(model, x_0, start, seeds(), budget)
    alone = invert(model, x_0[1:], start[1:], seeds()[1:], budget)
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-3)


def test_decoding_is_the_inverse_of_the_vae_scale(models):
    model = models["held"]
    vae = model.pipe.vae
    with torch.no_grad():
        latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
        decoded = vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5
    expected = (decoded.clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    found = drawing.decode_latents(model, latents)
    assert np.abs(found.astype(float) - expected).max() <= 1


def test_sampling_from_noise_is_ddim_in_float64(models):
    """The denoiser of a Gaussian is linear, so that a DDIM run is a product of factors."""
    model = models["absent"]
    with torch.no_grad():
        model.unet.memory.copy_(model.unet.memory + 1e4)  # out of reach: the Gaussian is left
        try:
            x_t = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
            found = drawing.sample(model, x_t, model.embed_text(["x"]), WALK, start=999)
        finally:
            model.unet.memory.copy_(model.unet.memory - 1e4)
    level = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    times = np.linspace(999, 0, WALK.steps, endpoint=False).round().astype(int)
    expected = x_t.double().numpy()
    for now, after in zip(times, [*times[1:], None], strict=True):
        alpha, sigma = np.sqrt(level[now]), np.sqrt(1 - level[now])
        x_0, noise = alpha * expected, sigma * expected  # E[x_0 | x_t] where α² + σ² = 1
        if after is None:
            expected = x_0
        else:
            expected = np.sqrt(level[after]) * x_0 + np.sqrt(1 - level[after]) * noise
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)


def test_completion_starts_at_its_level(models, monkeypatch):
    starts = []
    monkeypatch.setattr(
        "pipeline.erasure.attacks.completion.sample",
        lambda model, x_t, text, walk, start: starts.append(start) or torch.zeros_like(x_t),
    )
    for level in (0.001, 0.3, 1.0):
        run_attack(models["held"], subject(0), CompletionBudget(start=level), WALK, seed=0)
    assert starts == [0, 299, 999]


@pytest.mark.parametrize("hidden", ["left", "right", "top", "bottom"])
def test_inpainting_gives_the_other_half_and_judges_the_hidden_one(models, hidden, monkeypatch):
    model, seen = models["held"], []
    decode = drawing.decode_latents
    monkeypatch.setattr(
        "pipeline.erasure.attacks.inpainting.decode_latents",
        lambda model, latents: seen.append(latents) or decode(model, latents),
    )
    found = run_attack(model, subject(2), InpaintingBudget(hidden=hidden), WALK, seed=0)
    with torch.no_grad():
        wanted = model.encode_pictures(pictures()[2:])
    top, left, bottom, right = (int(8 * share) for share in found.box)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    side = {"left": (0, 0), "right": (0, 7), "top": (0, 0), "bottom": (7, 0)}[hidden]
    assert inside.sum() == 32
    assert inside[side]
    gap = (seen[0] - wanted).abs()
    assert gap[..., ~inside].max() == 0
    assert gap[..., inside].mean() > 0.1


def test_inpainting_gives_the_half_at_the_level_of_the_step(models, monkeypatch):
    """What the model sees of the given half is α_t x* + σ_t ε, with noise of spread σ_t."""
    model, seen = models["held"], []
    original = model.predict_noise

    def spy(x_t, timesteps, text):
        seen.append((x_t.clone(), timesteps[:1].clone()))
        return original(x_t, timesteps, text)

    monkeypatch.setattr(model, "predict_noise", spy)
    run_attack(model, subject(2), InpaintingBudget(hidden="right", draws=32), WALK, seed=0)
    with torch.no_grad():
        x_0 = model.encode_pictures(pictures()[2:])[..., :4]
    for x_t, step in seen:
        alpha, sigma = (float(value) for value in model.alpha_sigma(step))
        noise = (x_t[:32, ..., :4] - alpha * x_0) / sigma
        assert abs(float(noise.mean())) < 0.06
        assert float(noise.std()) == pytest.approx(1, abs=0.04)


def test_a_prefix_is_made_of_words_of_the_vocabulary(models):
    model = models["held"]
    search = PrefixSearch(model, "a cat", PrefixBudget(), torch.Generator().manual_seed(0))
    tokens = search.project(search.table[torch.tensor([10, 20, 30])] * 3)  # cosine: scale is free
    assert tokens.tolist() == [10, 20, 30]
    special = set(model.pipe.tokenizer.all_special_ids)
    ends = search.project(search.table[torch.tensor(sorted(special))])
    assert not special & set(ends.tolist())


def test_a_prefix_of_tokens_is_what_typing_them_would_be(models):
    """Two letters put in place of the placeholders, against the caption typed with them."""
    model = models["held"]
    search = PrefixSearch(model, "cat", PrefixBudget(tokens=2), torch.Generator().manual_seed(0))
    ids = model.pipe.tokenizer("b q", add_special_tokens=False).input_ids
    with torch.no_grad():
        found = search.states(search.table[torch.tensor(ids)])
        torch.testing.assert_close(found, model.embed_text(["b q cat"]))


def test_a_model_with_two_text_encoders_has_no_prefix_attack(models, monkeypatch):
    monkeypatch.setattr(models["held"].pipe, "text_encoder_2", object(), raising=False)
    with pytest.raises(ModelError, match="one text encoder"):
        run_attack(models["held"], subject(0), PrefixBudget(), WALK, seed=0)


def test_relearning_puts_the_weights_back_when_it_fails(models, monkeypatch):
    model = models["held"]
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("pipeline.erasure.attacks.relearning.draw_from", fail)
    with pytest.raises(MemoryError):
        run_attack(model, subject(0), ATTACKS[-1], WALK, seed=0)
    for name, tensor in model.unet.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_relearning_half_precision_is_refused(models, monkeypatch):
    monkeypatch.setattr(models["held"].unet, "dtype", torch.float16)
    with pytest.raises(ModelError, match="float32"):
        run_attack(models["held"], subject(0), ATTACKS[-1], WALK, seed=0)


def test_bad_subjects_are_refused():
    with pytest.raises(InputError, match="no caption"):
        Subject(pictures()[0], ())
    with pytest.raises(InputError, match=r"\(3, 16, 16, 3\)"):
        Subject(pictures(), ("a hat",))


def test_forwards_are_counted(models, monkeypatch):
    """An optimising step counts its backward pass as another forward."""
    model, seen = models["held"], []
    original = model.predict_noise

    def spy(x_t, timesteps, text):
        seen.append(len(x_t) * (2 if text.requires_grad else 1))
        return original(x_t, timesteps, text)

    monkeypatch.setattr(model, "predict_noise", spy)
    for budget in (EmbeddingBudget(iterations=3, attempts=5, draws=2), *ATTACKS[-4:-1]):
        seen.clear()
        found = run_attack(model, subject(0), budget, WALK, seed=0)
        assert found.forwards == sum(seen)
