import numpy as np
import pytest
import torch
from tiny_model import build_tiny_pipeline

from pipeline.errors import ConfigError
from pipeline.generation.backend import Sampling, fresh_model, load_model

CAPTIONS = ["a cat", "two dogs", "", "a red house by the sea"]
SEEDS = [11, 2**62 + 5, 33, 44]
QUICK = Sampling(steps=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_pipeline(tmp_path_factory.mktemp("backend") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return fresh_model(folder)


def cumulative_alphas():
    """ᾱ_t of Stable Diffusion's scaled linear schedule, in float64."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


# Noise prediction.


@torch.inference_mode()
def test_predictions_do_not_depend_on_neighbours(model):
    text = model.embed_text(CAPTIONS)
    x_t = model.noise(SEEDS)
    steps = torch.tensor([999, 700, 300, 1])
    together = model.predict_noise(x_t, steps, text)
    for row in range(4):
        one = slice(row, row + 1)
        alone = model.predict_noise(x_t[one], steps[one], text[one])
        assert (alone - together[one]).abs().max() < 1e-5


@torch.inference_mode()
def test_text_is_embedded_caption_by_caption(model):
    together = model.embed_text(CAPTIONS)
    assert together.shape == (4, 24, 16)
    for caption, row in zip(CAPTIONS, together, strict=True):
        assert (model.embed_text([caption])[0] - row).abs().max() < 1e-5
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_the_first_noise_is_each_seed_s_own(model):
    noise = model.noise(SEEDS)
    assert noise.shape == (4, *model.latent_shape) == (4, 4, 8, 8)
    assert torch.equal(model.noise(SEEDS[::-1]), noise.flip(0))


def test_pictures_become_scaled_latents(model):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    pictures.setflags(write=False)  # as numpy views of decoded pictures are
    with torch.inference_mode():
        latents = model.encode_pictures(pictures)
        pixels = torch.tensor(pictures).permute(0, 3, 1, 2) / 255 * 2 - 1
        expected = model.pipe.vae.encode(pixels).latent_dist.mean
    assert latents.shape == (3, *model.latent_shape)
    assert torch.allclose(latents, expected * model.pipe.vae.config.scaling_factor, atol=1e-5)


def test_sizes(model):
    assert model.latent_shape == (4, 8, 8)
    assert model.resolution == 16
    assert model.device.type == "cpu"


def test_a_batch_takes_its_kind_of_prediction_from_the_scheduler(model):
    """v = (ε - α x̂)/..: the network's v as noise, by the formula, at each picture's own time."""
    steps = torch.tensor([999, 700, 300, 1])
    x_t, text = model.noise(SEEDS), model.embed_text(CAPTIONS)
    with torch.inference_mode():
        velocity = model.output(x_t, steps, text)
        noise = model.predict_noise(x_t, steps, text)
    alpha = np.sqrt(cumulative_alphas()[steps.numpy()])[:, None, None, None]
    expected = alpha * velocity.numpy() + np.sqrt(1 - alpha**2) * x_t.numpy()
    assert np.abs(noise.numpy() - expected).max() < 1e-4


# Drawing.


@pytest.fixture(scope="module")
def drawn(model):
    return model.draw(CAPTIONS, SEEDS, QUICK)


def near(a, b):
    """Equal but for the last bits of batched arithmetic, seen after rounding to 0..255."""
    return np.abs(a.astype(int) - b).max() <= 1


def test_pictures_are_bytes_of_the_model_s_size(drawn):
    assert (drawn.shape, drawn.dtype) == ((4, 16, 16, 3), np.uint8)
    assert drawn.std() > 1


def test_drawing_again_gives_the_same_bytes(model, drawn):
    assert np.array_equal(model.draw(CAPTIONS, SEEDS, QUICK), drawn)


def test_the_global_generator_does_not_matter(model, drawn):
    torch.manual_seed(123)
    assert np.array_equal(model.draw(CAPTIONS, SEEDS, QUICK), drawn)


def test_pictures_do_not_depend_on_neighbours_or_order(model, drawn):
    for row in range(4):
        assert near(model.draw([CAPTIONS[row]], [SEEDS[row]], QUICK)[0], drawn[row])
    assert near(model.draw(CAPTIONS[::-1], SEEDS[::-1], QUICK), drawn[::-1])


@pytest.mark.parametrize("name", ["ddpm", "euler_ancestral"])
def test_nor_where_each_step_adds_noise(model, name):
    how = Sampling(scheduler=name, steps=4)
    together = model.draw(CAPTIONS, SEEDS, how)
    alone = np.concatenate(
        [model.draw([c], [s], how) for c, s in zip(CAPTIONS, SEEDS, strict=True)]
    )
    assert near(alone, together)


def test_captions_without_their_seeds(model):
    with pytest.raises(ValueError, match="2 captions and 1 seeds"):
        model.draw(["a cat", "b"], [1], QUICK)


def test_compiling_is_for_cuda(folder):
    with pytest.raises(ConfigError, match="for a CUDA device, not 'cpu'"):
        fresh_model(folder, compiled=True)


def test_seed_caption_and_guidance_matter(model, drawn):
    assert not near(model.draw(CAPTIONS, [1, 2, 3, 4], QUICK), drawn)
    strong = Sampling(steps=4, guidance=40.0)
    other = model.draw(["another thing"] * 4, SEEDS, strong)
    assert not np.array_equal(other, model.draw(CAPTIONS, SEEDS, strong))
    assert not np.array_equal(model.draw(CAPTIONS, SEEDS, strong), drawn)


def test_drawing_starts_from_the_model_s_noise(model):
    """One DDIM step from x_T, by hand in closed form, ends in the same picture."""
    how = Sampling(scheduler="ddim", steps=1, guidance=1.0)
    picture = model.draw(["a cat"], [7], how)
    model.pipe.scheduler.set_timesteps(1)
    last = model.pipe.scheduler.timesteps[:1]
    with torch.inference_mode():
        x_t = model.noise([7])
        noise = model.predict_noise(x_t, last, model.embed_text(["a cat"]))
        alpha, sigma = model.alpha_sigma(last)
        x_0 = (x_t - sigma * noise) / alpha
        final = np.sqrt(
            cumulative_alphas()[0]
        )  # set_alpha_to_one is false: the last step ends at t = 0
        x_end = final * x_0 + np.sqrt(1 - final**2) * noise
        decoded = model.pipe.vae.decode(x_end.float() / model.pipe.vae.config.scaling_factor).sample
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert near(picture, expected.astype(int))


# Schedulers.


def test_good_solvers_agree_in_the_limit(model):
    """All solve one differential equation; with many steps they end close together."""
    ends = [
        model.draw(["a cat"], [1], Sampling(scheduler=name, steps=60)).astype(float)
        for name in ("ddim", "dpmsolver++", "unipc", "deis")
    ]
    for end in ends[1:]:
        assert np.abs(end - ends[0]).mean() < 3


def test_an_unknown_scheduler(model):
    own = model.pipe.scheduler
    with pytest.raises(ConfigError, match="'magic': one of ddim, ddpm"):
        model.draw(["a cat"], [1], Sampling(scheduler="magic"))
    assert model.pipe.scheduler is own


def test_the_model_s_own_scheduler_is_back_after_an_error(model):
    own = model.pipe.scheduler
    with pytest.raises(ConfigError, match="steps"):
        model.draw(["a cat"], [1], Sampling(scheduler="euler", steps=3000))
    assert model.pipe.scheduler is own


# Caches.


def test_a_model_is_loaded_once_for_a_fingerprint(folder):
    first = load_model(folder, fingerprint="a")
    assert load_model(folder / ".." / folder.name, fingerprint="a") is first
    assert load_model(folder, fingerprint="b") is not first
    assert fresh_model(folder) is not first


def test_ids_are_hashed_from_the_settings_that_are_used():
    """Ids of pictures that were drawn before a setting was added stay what they were."""
    before = "Sampling(scheduler='ddim', steps=4, guidance=2.0, negative_prompt='a\\'b')"
    assert eval(str(Sampling("ddim", 4, 2.0, "a'b"))) == Sampling("ddim", 4, 2.0, "a'b")
    assert str(Sampling("ddim", 4, 2.0, "ab")) == before.replace("a\\'b", "ab")
    assert "true_cfg=2.0" in str(Sampling(true_cfg=2.0))
