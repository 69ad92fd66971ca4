"""The mitigations in stock pipelines of diffusers, loaded without us."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import build

from pipeline.errors import ConfigError, ModelError
from pipeline.mitigation import export
from pipeline.mitigation.transition import Hold

PROMPTS = ["a cat", "two dogs"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return load("sd1", tmp_path_factory.mktemp("export"))


def load(kind, folder):
    pipe = DiffusionPipeline.from_pretrained(build(kind, folder / kind))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompt=PROMPTS, *, guidance=5.0, **given):
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    told = {"prompt": prompt} if prompt is not None else {}
    given = {"generator": generators, "num_inference_steps": 8, "output_type": "np", **given}
    return pipe(**told, guidance_scale=guidance, **given).images


def test_the_callback_turns_guidance_on(pipe):
    on = draw(pipe, guidance=1.0, callback_on_step_end=export.guidance_after(0.5, guidance=5.0))
    with export.guidance_held(pipe, share=0.5, before=1.0):
        held = draw(pipe)
    assert np.allclose(on, held, atol=1e-4)
    assert np.abs(on - draw(pipe)).max() > 1e-3
    assert np.abs(on - draw(pipe, guidance=1.0)).max() > 1e-3


def test_the_callback_of_all_steps_is_no_guidance(pipe):
    callback = export.guidance_after(1.0, guidance=5.0)
    assert np.array_equal(
        draw(pipe, guidance=1.0, callback_on_step_end=callback), draw(pipe, guidance=1.0)
    )


def test_the_callback_knows_the_negative_prompt_and_several_pictures(pipe):
    callback = export.guidance_after(0.25, guidance=5.0, negative_prompt="dull")
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    several = {"generator": generators, "num_images_per_prompt": 2}
    on = draw(pipe, guidance=1.0, callback_on_step_end=callback, **several)
    with export.guidance_held(pipe, share=0.25, before=1.0):
        generators = [torch.Generator().manual_seed(i) for i in range(4)]
        several["generator"] = generators
        held = draw(pipe, negative_prompt=["dull"] * 2, **several)
    assert len(on) == 4 and np.allclose(on, held, atol=1e-4)


def test_a_callback_that_cannot_work_says_so(pipe, tmp_path):
    with pytest.raises(ConfigError, match=r"guidance_scale=1\.0"):
        draw(pipe, guidance=5.0, callback_on_step_end=export.guidance_after(0.5))
    with pytest.raises(ModelError, match="use guidance_held"):
        xl = load("sdxl", tmp_path)
        draw(xl, guidance=1.0, callback_on_step_end=export.guidance_after(0.5))
    for share, guidance in ((0.0, 5.0), (1.5, 5.0), (0.5, 1.0)):
        with pytest.raises(ConfigError):
            export.guidance_after(share, guidance=guidance)


def test_processors_hide_what_follows_the_caption(pipe):
    own = dict(pipe.unet.attn_processors)
    plain = draw(pipe)
    pipe.unet.set_attn_processor(export.summary_processors(pipe, PROMPTS))
    masked = draw(pipe)
    pipe.unet.set_attn_processor(export.summary_processors(pipe, PROMPTS[0]))
    generator = [torch.Generator().manual_seed(0)]
    alone = draw(pipe, PROMPTS[0], generator=generator)
    pipe.unet.set_attn_processor(own)
    assert np.abs(masked - plain).max() > 1e-4
    assert np.allclose(alone[0], masked[0], atol=1e-4)
    assert np.array_equal(draw(pipe), plain)


def test_quiet_inputs_are_keywords_of_a_call(pipe):
    how = {"steps": 8, "guidance": 5.0}
    still = export.quiet_inputs(pipe, PROMPTS, [0, 1], target=1e9, **how)
    assert np.allclose(draw(pipe, None, **still), draw(pipe), atol=1e-4)
    quiet = export.quiet_inputs(pipe, PROMPTS, [0, 1], target=1e-9, **how)
    assert np.abs(draw(pipe, None, **quiet) - draw(pipe)).max() > 1e-4


def test_a_random_caption(pipe):
    said = export.random_caption(pipe, "a cat", seed=1, count=2)
    assert len(said.split()) == 4 and {"a", "cat"} <= set(said.split())
    assert said == export.random_caption(pipe, "a cat", seed=1, count=2)
    given = export.random_caption(pipe, "a cat", seed=1, change="replace", count=9, words=["tree"])
    assert given == "tree tree"


def guide(guider, gaps, uncond):
    """Each step's prediction, where the caption's is `gaps` above that without it."""
    told = []
    for step, gap in enumerate(gaps):
        guider.set_state(step=step, num_inference_steps=len(gaps), timestep=torch.tensor(0))
        told.append(guider(_blocks(uncond + gap, uncond)).pred)
    return torch.stack(told)


def _blocks(text, uncond):
    from diffusers.modular_pipelines.modular_pipeline import BlockState

    key = export.BasinGuidance._identifier_key
    return [
        BlockState(noise_pred=prediction, **{key: name})
        for name, prediction in (("pred_cond", text), ("pred_uncond", uncond))
    ]


def test_the_guider_waits_for_the_first_minimum():
    guider = export.BasinGuidance(guidance_scale=5.0, before=1.0)
    gaps, uncond = [3.0, 2.0, 1.0, 2.0, 0.5], torch.randn(2, 4, 3, 3)
    expected = [uncond + weight * gap for weight, gap in zip([1, 1, 1, 5, 5], gaps, strict=True)]
    for _ in range(2):  # another picture begins anew
        assert torch.allclose(guide(guider, gaps, uncond), torch.stack(expected), atol=1e-5)
    again = export.BasinGuidance.from_config(guider.config)
    assert torch.allclose(guide(again, gaps, uncond), torch.stack(expected), atol=1e-5)
    assert isinstance(guider._hold, Hold)
