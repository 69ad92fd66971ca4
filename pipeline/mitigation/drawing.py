"""Draw with a mitigation: what `DiffusionModel.draw` does, and one thing otherwise.

Each picture's randomness is hashed from its own seed, so it does not depend on its neighbours.
"""

from collections.abc import Sequence

import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.generation.backend import DiffusionModel, Pictures
from pipeline.generation.sampling import Sampling
from pipeline.ids import hash63
from pipeline.mitigation.attention import masked_attention
from pipeline.mitigation.captions import changed, noisy, vocabulary, words_of
from pipeline.mitigation.options import (
    AttentionOptions,
    CaptionOptions,
    Mitigation,
    TransitionOptions,
    WenOptions,
)
from pipeline.mitigation.transition import held_guidance
from pipeline.mitigation.wen import quietened


def draw_mitigated(
    model: DiffusionModel,
    captions: Sequence[str],
    seeds: Sequence[int],
    how: Sampling,
    options: Mitigation,
    *,
    others: Sequence[str] = (),
) -> Pictures:
    """Draw one picture a (caption, seed), (n, h, w, 3) in 0..255.

    `others` are captions to take random words from, where the options say so. Raises ModelError
    for a model that the mitigation does not fit, ConfigError for settings that it does not fit.
    """
    match options:
        case WenOptions():
            return model.draw(quietened(model, captions, seeds, how, options), seeds, how)
        case CaptionOptions(change="gaussian"):
            with torch.no_grad():
                text = model.conditions(captions, guidance=how.guidance)
            own = [_seed(options, seed) for seed in seeds]
            return model.draw(noisy(text, options.noise, own), seeds, how)
        case CaptionOptions():
            words = _words(model, options, others)
            told = [
                changed(caption, options.change, options.count, _seed(options, seed), words)
                for caption, seed in zip(captions, seeds, strict=True)
            ]
            return model.draw(told, seeds, how)
        case TransitionOptions():
            _require_guided(model, how)
            with held_guidance(model.pipe, options):
                return model.draw(captions, seeds, how)
        case AttentionOptions():
            with masked_attention(model, captions, options):
                return model.draw(captions, seeds, how)


def _words(model: DiffusionModel, options: CaptionOptions, others: Sequence[str]) -> list[str]:
    if options.change not in ("replace", "add"):
        return []
    if options.words == "captions":
        return words_of(others)
    return vocabulary(getattr(model.pipe, "tokenizer", None))


def _require_guided(model: DiffusionModel, how: Sampling) -> None:
    name = type(model.pipe).__name__
    if model.adapter.distilled:
        raise ModelError(f"{name}: its network is told the guidance; nothing can be held back")
    if model.guidance_weight(how) <= 1:
        raise ConfigError("a transition point needs guidance: set generate.guidance above 1")


def _seed(options: Mitigation, seed: int) -> int:
    return hash63("mitigation", options.kind, seed)
