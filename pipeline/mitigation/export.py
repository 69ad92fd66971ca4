"""The mitigations for a pipeline of diffusers, without anything else of ours:

    from pipeline.mitigation import export

    pipe = StableDiffusionPipeline.from_pretrained(...)

    # guidance from a share of the steps on: a callback; start without guidance
    pipe(prompt, guidance_scale=1.0, callback_on_step_end=export.guidance_after(0.3, guidance=7.5))

    # or held back at the call's own guidance, until the first minimum if no share is given
    with export.guidance_held(pipe):
        pipe(prompt, guidance_scale=7.5)

    # the tokens after the caption, hidden: attention processors
    pipe.unet.set_attn_processor(export.summary_processors(pipe, prompt))

    # an embedding that pulls less, for the first noise of these seeds
    pipe(**export.quiet_inputs(pipe, [prompt], [seed], steps=50, guidance=7.5), ...)

    # another caption
    pipe(export.random_caption(pipe, prompt, seed=0))

    # for modular pipelines: a guider
    modular.update_components(guider=export.BasinGuidance(guidance_scale=7.5))

`steps` and `guidance` of `quiet_inputs` are to be those of the call.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from diffusers.callbacks import PipelineCallback
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import GuiderOutput

from pipeline.errors import ConfigError, ModelError
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.sampling import Sampling
from pipeline.mitigation.attention import processors
from pipeline.mitigation.captions import changed, vocabulary
from pipeline.mitigation.options import AttentionOptions, TransitionOptions, WenOptions
from pipeline.mitigation.transition import Hold, gaps_between, held_guidance
from pipeline.mitigation.wen import quietened


class GuidanceAfter(PipelineCallback):
    """Turns guidance on in a StableDiffusionPipeline that was called without it."""

    tensor_inputs = ["prompt_embeds"]  # noqa: RUF012  diffusers reads a list

    def __init__(self, share: float, guidance: float, negative_prompt: str = "") -> None:
        """Raise ConfigError for a share outside 0..1, and for no guidance."""
        if not 0 < share <= 1:
            raise ConfigError(f"share {share}: above 0 and at most 1; for 0, guide the call itself")
        if guidance <= 1:
            raise ConfigError(f"guidance {guidance}: 1 and below is none")
        super().__init__(cutoff_step_ratio=float(share))
        self._share, self._guidance, self._negative = share, guidance, negative_prompt

    def callback_fn(
        self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """After the last step without guidance, give the pipeline both embeddings.

        Raises ConfigError where the call is guided, ModelError for another kind of pipeline.
        """
        del timestep
        last = max(1, round(self._share * pipeline.num_timesteps)) - 1
        if step_index == 0:
            self._check(pipeline)
        if step_index == last:
            text = callback_kwargs["prompt_embeds"]
            nothing, _ = pipeline.encode_prompt(self._negative, text.device, 1, False)
            nothing = nothing.to(text.dtype).expand_as(text)
            callback_kwargs["prompt_embeds"] = torch.cat([nothing, text])
            pipeline._guidance_scale = self._guidance  # as diffusers' own callbacks do
        return callback_kwargs

    @staticmethod
    def _check(pipeline: Any) -> None:
        config = pipeline.unet.config
        if config.get("addition_embed_type") or config.get("time_cond_proj_dim"):
            name = type(pipeline).__name__
            raise ModelError(f"{name}: reads more than the embedding; use guidance_held")
        if pipeline.do_classifier_free_guidance:
            raise ConfigError("guidance_after: call the pipeline with guidance_scale=1.0")


def guidance_after(
    share: float, *, guidance: float = 7.5, negative_prompt: str = ""
) -> GuidanceAfter:
    """A `callback_on_step_end`: the caption alone for a share of the steps, then guidance.

    For Stable Diffusion 1 and 2, called with guidance_scale=1.0; at least the first step is without
    guidance, and costs half. See GuidanceAfter for errors.
    """
    return GuidanceAfter(share, guidance, negative_prompt)


def guidance_held(
    pipe: Any, *, share: float | None = None, latest: float = 1.0, before: float = 0.0
) -> AbstractContextManager[None]:
    """Hold the guidance of calls in a `with` block back; see `TransitionOptions`.

    For pipelines that ask for both predictions in one batch: Stable Diffusion 1 to 3, XL, PixArt.
    """
    options = TransitionOptions(share=share, latest=latest, before=before)
    return held_guidance(pipe, options)


def summary_processors(
    pipe: Any, prompt: str | Sequence[str], *, first: float = 1.25, end: bool = False
) -> dict[str, Any]:
    """For `pipe.unet.set_attn_processor`: the tokens after these captions are hidden.

    They are for a call with these captions, any number of pictures each; `dict(
    pipe.unet.attn_processors)`, taken before, gives the pipeline its own back. Raises ModelError
    for another architecture than a UNet that reads CLIP's tokens.
    """
    captions = [prompt] if isinstance(prompt, str) else list(prompt)
    return processors(DiffusionModel(pipe), captions, AttentionOptions(first=first, end=end))


def quiet_inputs(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance: float,
    target: float = 1.5,
    learning_rate: float = 0.05,
    iterations: int = 10,
) -> dict[str, torch.Tensor]:
    """Keywords of a call, a picture a (prompt, seed): embeddings that pull less, and latents.

    See `WenOptions`. Raises ModelError for flow models and for an architecture that is not known.
    """
    model = DiffusionModel(pipe)
    options = WenOptions(target=target, learning_rate=learning_rate, iterations=iterations)
    how = Sampling(steps=steps, guidance=guidance)
    text = quietened(model, list(prompts), list(seeds), how, options)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.no_grad():
        return model.adapter.arguments(text, generators, how)


def random_caption(
    pipe: Any,
    prompt: str,
    *,
    seed: int,
    change: str = "add",
    count: int = 4,
    words: Sequence[str] = (),
) -> str:
    """The prompt with random changes; `words` to draw from, by default the tokenizer's.

    `change` is one of `pipeline.mitigation.captions.CHANGES`; see `changed` for errors.
    """
    return changed(prompt, change, count, seed, words or vocabulary(pipe.tokenizer))


class BasinGuidance(ClassifierFreeGuidance):
    """A guider of modular pipelines: guidance held back until the transition point.

    See `TransitionOptions`. Both predictions are asked for at every step, as both are compared.
    """

    @register_to_config
    def __init__(
        self,
        guidance_scale: float = 7.5,
        share: float | None = None,
        latest: float = 1.0,
        before: float = 0.0,
    ) -> None:
        super().__init__(guidance_scale=guidance_scale)
        self._options = TransitionOptions(share=share, latest=latest, before=before)
        self._hold = Hold(self._options)

    def forward(
        self, pred_cond: torch.Tensor, pred_uncond: torch.Tensor | None = None
    ) -> GuiderOutput:
        """Both raw predictions (n, ...) of this step as one."""
        if pred_uncond is None:  # guidance was disabled
            return super().forward(pred_cond, pred_uncond)
        state = self.get_state()
        if state["step"] == 0:
            self._hold = Hold(self._options)
        gaps = gaps_between(pred_uncond, pred_cond)
        held = self._hold.held(state["step"], state["num_inference_steps"], gaps)
        rows = held.view(-1, *[1] * (pred_cond.ndim - 1))
        mixed = torch.lerp(pred_uncond, pred_cond, self._options.before)
        return super().forward(
            torch.where(rows, mixed, pred_cond), torch.where(rows, mixed, pred_uncond)
        )
