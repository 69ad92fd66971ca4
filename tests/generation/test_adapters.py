"""Each architecture against the sampling loop of its own pipeline in diffusers.

The pipeline is given captions and ends in latents. Beside it a loop is written here from our noise
predictions alone, turned back into what the scheduler takes by the inverse formulas.
"""

import numpy as np
import pytest
import torch
from tiny_pipelines import build

from pipeline.errors import ConfigError, ModelError
from pipeline.generation.adapters.choose import adapter_for
from pipeline.generation.adapters.flux import pack, places, unpack
from pipeline.generation.backend import NOTHING, DiffusionModel, Sampling, fresh_model
from pipeline.generation.conditions import Conditions
from pipeline.generation.predictions import alpha_sigma

CAPTIONS = ["a cat", "two dogs", "a cat"]
SEEDS = [11, 2**62 + 5, 33]
STEPS = 4
WORDS = [
    ("sd1", {}),
    ("sd2", {}),
    ("sdxl", {}),
    ("sdxl", {"force_zeros": False}),
    ("sd3", {}),
    ("sd3", {"missing": (3,)}),
    ("sd3", {"dynamic": True}),
    ("pixart", {}),
]


def generators():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def raw_of(model, noise, x_t, timesteps, text):
    """What the network predicts, from its noise prediction: the formulas the other way round."""
    alpha, sigma = model.alpha_sigma(timesteps)
    if model.flows:
        if float(alpha.min()) == 0:  # the noise says nothing of the velocity there
            return model.output(x_t, timesteps, text)
        return (noise - x_t) / alpha
    if model.pipe.scheduler.config.prediction_type == "v_prediction":
        return (noise - sigma * x_t) / alpha
    return noise


@torch.inference_mode()
def sampled(model, text, nothing, weight, steps=STEPS):
    """Latents that our predictions lead to, stepped by a copy of the model's scheduler."""
    scheduler, timesteps = model.start(steps)
    x_t = model.noise(SEEDS) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for timestep in timesteps:
        scaled = x_t
        if hasattr(scheduler, "scale_model_input"):
            scaled = scheduler.scale_model_input(x_t, timestep)
        times = timestep.expand(len(x_t))
        raws = []
        for told in (nothing, text):
            noise = model.predict_noise(scaled, times, told)
            raws.append(raw_of(model, noise, scaled, times, told))
        guided = raws[0] + weight * (raws[1] - raws[0])
        x_t = scheduler.step(guided, timestep, x_t).prev_sample
    return x_t


def close(a, b):
    assert a.shape == b.shape
    assert float((a - b).abs().max()) < 2e-3 * float(b.abs().max())


@pytest.mark.parametrize(("kind", "changes"), WORDS)
@pytest.mark.parametrize("negative", ["", "blur"])
def test_our_predictions_lead_where_the_pipeline_goes(tiny, kind, changes, negative):
    model = tiny(kind, **changes)
    weight = 3.0
    own = model.pipe(
        prompt=CAPTIONS,
        # what a user types: nothing at all where there is nothing to avoid
        **({"negative_prompt": [negative] * 3} if negative else {}),
        generator=generators(),
        num_inference_steps=STEPS,
        guidance_scale=weight,
        output_type="latent",
        **({"use_resolution_binning": False} if kind == "pixart" else {}),
    ).images
    text = model.conditions(CAPTIONS)
    nothing = model.unconditioned(negative).expand_as(text)
    close(sampled(model, text, nothing, weight), own)


@pytest.mark.parametrize(("kind", "changes"), [("sd1", {}), ("sdxl", {}), ("sd3", {})])
def test_words_matter_to_the_predictions(tiny, kind, changes):
    model = tiny(kind, **changes)
    a, b = model.conditions(["a cat"]), model.conditions(["two dogs"])
    x_t, time = model.noise([1]), torch.tensor([500])
    with torch.inference_mode():
        difference = model.predict_noise(x_t, time, a) - model.predict_noise(x_t, time, b)
    assert difference.abs().max() > 1e-4


def flux_latents(model, **guidance):
    """What FLUX's own pipeline draws, as latents."""
    tokens = model.pipe(
        generator=generators(),
        num_inference_steps=STEPS,
        guidance_scale=3.5,
        height=16,
        width=16,
        output_type="latent",
        prompt=CAPTIONS,
        **guidance,
    ).images
    return unpack(tokens, 8, 8)


@pytest.mark.parametrize("guided", [True, False])
def test_flux_is_told_its_guidance_and_has_one_branch(tiny, guided):
    model = tiny("flux", guided=guided)
    own = flux_latents(model)
    text = model.conditions(CAPTIONS, guidance=3.5)
    assert ("guidance" in text.tensors) == guided
    close(sampled(model, text, text, 1.0), own)
    assert model.guidance_weight(Sampling(guidance=3.5)) == 1


def test_flux_with_true_guidance(tiny):
    model = tiny("flux")
    own = flux_latents(model, negative_prompt=["blur"] * 3, true_cfg_scale=2.0)
    text = model.conditions(CAPTIONS, guidance=3.5)
    nothing = model.unconditioned("blur", guidance=3.5).expand_as(text)
    weight = model.guidance_weight(Sampling(guidance=3.5, true_cfg=2.0))
    assert weight == 2
    close(sampled(model, text, nothing, weight), own)


def test_a_consistency_model_is_told_its_guidance(tiny):
    model = tiny("lcm")
    own = model.pipe(
        prompt=CAPTIONS,
        generator=generators(),
        num_inference_steps=1,  # the steps after the first add noise
        guidance_scale=8.5,
        output_type="latent",
    ).images
    with torch.inference_mode():
        scheduler, timesteps = model.start(1)
        times = timesteps.expand(3)
        x_t = model.noise(SEEDS)
        noise = model.predict_noise(x_t, times, model.conditions(CAPTIONS, guidance=8.5))
        close(scheduler.step(noise, timesteps[0], x_t).denoised, own)
        other = model.predict_noise(x_t, times, model.conditions(CAPTIONS, guidance=2.0))
    assert (noise - other).abs().max() > 1e-4


# Drawing: our call of the pipeline against the plain one.


@pytest.mark.parametrize(("kind", "changes"), [*WORDS, ("lcm", {}), ("flux", {})])
def test_pictures_are_those_of_the_plain_call(tiny, kind, changes):
    model = tiny(kind, **changes)
    how = Sampling(steps=3, guidance=4.0, negative_prompt="" if kind == "flux" else "blur")
    given = {} if kind in ("lcm", "flux") else {"negative_prompt": ["blur"] * 3}
    if kind == "pixart":
        given["use_resolution_binning"] = False
    if kind == "flux":
        given |= {"height": 16, "width": 16}
    plain = model.pipe(
        prompt=CAPTIONS,
        generator=generators(),
        num_inference_steps=3,
        guidance_scale=4.0,
        output_type="np",
        **given,
    ).images
    drawn = model.draw(CAPTIONS, SEEDS, how)
    assert drawn.shape == (3, 16, 16, 3)
    assert np.abs(drawn - (plain * 255).round()).max() <= 1
    assert drawn.std() > 1


# Text.


@pytest.mark.parametrize(("kind", "changes"), [*WORDS, ("flux", {}), ("lcm", {})])
def test_conditions_are_embedded_once_and_caption_by_caption(tiny, kind, changes):
    model = tiny(kind, **changes)
    asked = []
    encode = model.adapter.encode

    def watched(captions, guidance):
        asked.append(list(captions))
        return encode(captions, guidance)

    model.adapter.encode = watched
    try:
        together = model.conditions(CAPTIONS)
    finally:
        del model.adapter.encode
    assert asked == [["a cat", "two dogs"]]
    for row, caption in enumerate(CAPTIONS):
        alone = model.conditions([caption])
        for name, tensor in together.tensors.items():
            assert torch.allclose(alone.tensor(name)[0].float(), tensor[row].float(), atol=1e-5)


@pytest.mark.parametrize("missing", [(1,), (2,), (1, 2), (1, 3), (1, 2, 3)])
def test_an_encoder_of_sd3_that_is_not_there_is_zeros(tiny, missing):
    """The others' numbers stand where they stood, and so do the pictures' sizes."""
    whole, part = tiny("sd3"), tiny("sd3", missing=missing)
    full, some = whole.conditions(["a cat"]), part.conditions(["a cat"])
    assert some.tensor("pooled").shape == full.tensor("pooled").shape
    for number, columns in ((1, slice(0, 16)), (2, slice(16, 32))):
        found = some.tensor("pooled")[:, columns]
        assert bool((found == 0).all()) == (number in missing)
    tokens = some.tensor("text").shape[1] - 256
    assert bool((some.tensor("text")[:, tokens:] == 0).all()) == (3 in missing)
    assert part.draw(["a cat"], [1], Sampling(steps=2)).std() > 1


def test_states_of_a_plain_unet_may_be_given_as_a_tensor(tiny):
    model = tiny("sd2")
    states = model.embed_text(CAPTIONS)
    x_t, time = model.noise(SEEDS), torch.tensor([700, 20, 3])
    with torch.inference_mode():
        given = model.predict_noise(x_t, time, states)
        assert torch.equal(given, model.predict_noise(x_t, time, model.conditions(CAPTIONS)))
    with pytest.raises(ModelError, match="needs a UNet conditioned on text alone"):
        tiny("sdxl").embed_text(CAPTIONS)
    with pytest.raises(ModelError, match="reads 'pooled' and was given text"):
        tiny("sdxl").predict_noise(x_t, time, states)
    with pytest.raises(ModelError, match="reads 'text' and was given nothing"):
        model.predict_noise(x_t, time)


def test_conditions_are_taken_joined_and_repeated():
    told = Conditions({"a": torch.arange(6.0).view(3, 2), "b": torch.arange(3)})
    assert len(told) == 3
    assert told[torch.tensor([2, 0])].tensor("b").tolist() == [2, 0]
    assert [len(part) for part in told.split(2)] == [2, 1]
    assert Conditions.cat(told.split(2)).tensor("a").tolist() == told.tensor("a").tolist()
    many = told[:1].expand(4)
    assert many.tensor("a").tolist() == [[0, 1]] * 4
    assert len(NOTHING) == 0
    with pytest.raises(ModelError, match="different lengths"):
        Conditions({"a": torch.zeros(2), "b": torch.zeros(3)})


# Without words.


@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
@pytest.mark.parametrize("changes", [{}, {"channels": 1}, {"learned": True}])
def test_an_unconditional_model_draws_what_its_pipeline_draws(tiny, kind, changes):
    if kind == "ddim" and changes:
        pytest.skip("the DDIM pipeline is built of three channels")
    model = tiny(kind, **changes)
    plain = model.pipe(
        batch_size=3, generator=generators(), num_inference_steps=6, output_type="np"
    ).images
    drawn = model.draw(["", "", ""], SEEDS, Sampling(steps=6))
    assert drawn.shape == (3, 16, 16, 3)
    assert np.abs(drawn - (plain * 255).round()).max() <= 1
    assert drawn.std() > 1


def test_a_latent_unconditional_model(tiny):
    model = tiny("ldm")
    plain = model.pipe(
        batch_size=3, generator=generators(), num_inference_steps=6, output_type="np"
    ).images
    drawn = model.draw(["", "", ""], SEEDS, Sampling(steps=6))
    assert drawn.shape == (3, 32, 32, 3) == (3, model.resolution, model.resolution, 3)
    assert np.abs(drawn - (plain * 255).round()).max() <= 1
    pictures = np.zeros((2, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        expected = model.pipe.vqvae.encode(torch.full((2, 3, 32, 32), -1.0)).latents * 0.5
        assert torch.allclose(model.encode_pictures(pictures), expected, atol=1e-4)


@torch.inference_mode()
def test_noise_of_an_unconditional_model(tiny):
    """One DDIM step in closed form, from the noise prediction."""
    model = tiny("ddim")
    x_t, time = model.noise(SEEDS), torch.tensor([900] * 3)
    noise = model.predict_noise(x_t, time)
    assert torch.equal(noise, model.pipe.unet(x_t, 900).sample)
    learned = tiny("ddpm", learned=True)
    assert learned.predict_noise(x_t, time).shape == x_t.shape


def test_pictures_of_pixel_models_are_their_own_latents(tiny):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    colour, grey = tiny("ddpm"), tiny("ddpm", channels=1)
    latents = colour.encode_pictures(pictures)
    assert np.abs(latents.permute(0, 2, 3, 1).numpy() * 127.5 + 127.5 - pictures).max() < 1e-3
    expected = pictures.mean(3) / 127.5 - 1
    assert np.abs(grey.encode_pictures(pictures)[:, 0].numpy() - expected).max() < 1e-5
    drawn = grey.draw(["", ""], [1, 2], Sampling(steps=3))
    assert (drawn == drawn[..., :1]).all()


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "dpmsolver++"])
def test_schedulers_that_scale_what_the_network_sees(tiny, name, monkeypatch):
    """The pipelines leave that out. Pixels of N(m, s²) end in m + s x_T, see test_schedulers."""
    model = tiny("ddpm")
    own, mean, std = model.pipe.scheduler, 0.2, 0.3

    def best(x_t, timesteps, told):
        alpha, sigma = alpha_sigma(own, timesteps)
        return sigma * (x_t - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    monkeypatch.setattr(model.adapter, "output", best)
    drawn = model.draw([""], [1], Sampling(scheduler=name, steps=100)) / 127.5 - 1
    expected = mean + std * model.noise([1]).permute(0, 2, 3, 1).numpy()
    assert np.abs(drawn - expected.clip(-1, 1)).mean() < 0.05


# Latents and sizes.


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "shift"), [("sd1", 0.0), ("sd3", 0.06), ("flux", 0.11)])
def test_pictures_become_shifted_and_scaled_latents(tiny, kind, shift):
    model = tiny(kind)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    pixels = torch.tensor(pictures).permute(0, 3, 1, 2) / 255 * 2 - 1
    vae = model.pipe.vae
    expected = (vae.encode(pixels).latent_dist.mean - shift) * vae.config.scaling_factor
    assert torch.allclose(model.encode_pictures(pictures), expected, atol=1e-5)


def test_packing_is_that_of_the_pipeline(tiny):
    pipe = tiny("flux").pipe
    latents = torch.randn(2, 4, 6, 10)
    assert torch.equal(pack(latents), pipe._pack_latents(latents, 2, 4, 6, 10))
    assert torch.equal(unpack(pack(latents), 6, 10), latents)
    own = pipe._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32)
    assert torch.equal(places(3, 5).float(), own)


def test_another_resolution(tiny):
    model = tiny("sd1", resolution=32)
    assert model.latent_shape == (4, 16, 16)
    assert model.resolution == 32
    assert model.draw(["a cat"], [1], Sampling(steps=2)).shape == (1, 32, 32, 3)
    sizes = tiny("sdxl", resolution=32).conditions(["a cat"]).tensor("sizes")
    assert sizes.tolist() == [[32, 32, 0, 0, 32, 32]]


@pytest.mark.parametrize(("kind", "side", "step"), [("sd1", 17, 2), ("flux", 18, 4), ("sd3", 2, 4)])
def test_a_resolution_that_the_model_cannot_draw(tiny, kind, side, step):
    with pytest.raises(ConfigError, match=f"model.resolution {side}: .* a multiple of {step}"):
        tiny(kind, resolution=side)


def test_an_unconditional_model_has_its_own_size(tiny):
    with pytest.raises(ConfigError, match="draws at its own size only"):
        tiny("ddpm", resolution=32)


# Refusals.


@pytest.mark.parametrize(
    ("kind", "component"), [("sd1", "vae"), ("sd1", "text_encoder"), ("sdxl", "text_encoder_2")]
)
def test_a_missing_component_is_named(tiny, kind, component):
    pipe = tiny(kind).pipe
    kept = getattr(pipe, component)
    try:
        setattr(pipe, component, None)
        with pytest.raises(ModelError, match=f"has no {component}; fetch the whole model"):
            DiffusionModel(pipe)
    finally:
        setattr(pipe, component, kept)


@pytest.mark.parametrize(
    ("kind", "donor", "message"),
    [
        ("sd1", ("unet", "sdxl"), "has no|text encoders' width is 16, its network wants 32"),
        ("sdxl", ("text_encoder", None), "text encoders' width is 16, its network wants 32"),
        ("sd1", ("vae", "ldm"), "latent_channels is 3, its network wants 4"),
        ("pixart", ("text_encoder", None), "has no text_encoder"),
    ],
)
def test_components_that_do_not_fit_each_other(tiny, kind, donor, message):
    pipe, (component, other) = tiny(kind).pipe, donor
    kept = getattr(pipe, component)
    given = {"vae": "vqvae"}.get(component, component)
    try:
        setattr(pipe, component, getattr(tiny(other).pipe, given) if other else None)
        with pytest.raises(ModelError, match=message):
            DiffusionModel(pipe)
    finally:
        setattr(pipe, component, kept)


class Kandinsky:
    """A pipeline that no adapter knows."""

    def __call__(self, prompt, guidance_scale, generator, num_inference_steps, output_type):
        assert guidance_scale == 2.0 and output_type == "np" and len(generator) == len(prompt)
        images = np.stack([np.full((4, 4, 3), len(text) / 10) for text in prompt])
        return type("Output", (), {"images": images})


def test_an_unknown_architecture_can_be_drawn_and_no_more():
    adapter = adapter_for(Kandinsky())
    drawn = adapter.draw(["ab", "abc"], generators()[:2], Sampling())
    assert drawn[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.3])
    model = DiffusionModel(Kandinsky())
    for ask in (
        lambda: model.latent_shape,
        lambda: model.conditions(["a"]),
        lambda: model.resolution,
        lambda: model.predict_noise(torch.zeros(1), torch.zeros(1)),
    ):
        with pytest.raises(ModelError, match="Kandinsky: noise prediction is not supported"):
            ask()


def test_a_pipeline_that_wants_a_picture():
    class Img2Img:
        def __call__(self, prompt, image):
            pass

    with pytest.raises(ModelError, match="Img2Img: does not draw from a caption alone"):
        DiffusionModel(Img2Img())


def test_a_model_of_classes(tiny):
    from tiny_pipelines import _ddpm

    with pytest.raises(ModelError, match="draws by classes"):
        DiffusionModel(_ddpm(num_class_embeds=10))


# Half precision.


@torch.inference_mode()
@pytest.mark.parametrize(
    "kind", ["sd1", "sd2", "lcm", "sdxl", "sd3", "flux", "pixart", "ddpm", "ldm"]
)
def test_half_precision_begins_with_the_same_noise_and_predicts_nearly_the_same(
    tiny, tmp_path, kind
):
    side = 16 if kind == "flux" else None
    folder = build(kind, tmp_path / kind)
    model = tiny(kind)
    half = fresh_model(folder, dtype="bfloat16", resolution=side)
    x_t = model.noise(SEEDS)
    assert torch.equal(half.noise(SEEDS), x_t.bfloat16())
    times, told = torch.tensor([900.0, 500.0, 100.0]), [NOTHING, NOTHING]
    if kind not in {"flux", "sd3"}:
        times = times.long()
    if not model.unconditional:
        told = [m.conditions(CAPTIONS, guidance=3.0) for m in (model, half)]
    whole = model.predict_noise(x_t, times, told[0])
    part = half.predict_noise(x_t.bfloat16(), times, told[1]).float()
    assert (whole - part).square().mean().sqrt() < 0.06 * whole.square().mean().sqrt()
    how = Sampling(steps=3, guidance=2.0)
    drawn = half.draw(CAPTIONS, SEEDS, how)
    assert drawn.shape == model.draw(CAPTIONS, SEEDS, how).shape
    assert drawn.std() > 1
