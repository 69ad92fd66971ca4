"""Captions at random, or their embeddings (Somepalli et al. 2023, "Understanding and Mitigating
Copying in Diffusion Models", section 6, at inference).

    replace   k words of the caption become random words
    add       k random words are inserted, each at a random place
    number    the same with numbers below 100,000
    repeat    the same with words of the caption itself
    gaussian  e + λ z, z ~ N(0, 1), with e (tokens, d) the caption's embedding alone

All of it is drawn from a seed, a caption and a picture at a time.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, ModelError
from pipeline.generation.conditions import Conditions
from pipeline.generation.seeds import gaussian

CHANGES = ("replace", "add", "number", "repeat")
_NUMBERS = 100_000
_MARKS = (("", "</w>"), ("▁", ""))  # how CLIP's and T5's tokenizers mark a whole word


def changed(caption: str, change: str, count: int, seed: int, words: Sequence[str] = ()) -> str:
    """The caption with `count` random changes, at most one a word if words are replaced.

    `words` are what "replace" and "add" draw from. Raises ConfigError for an unknown change, and
    where there are no words to draw from.
    """
    if change not in CHANGES:
        raise ConfigError(f"change {change!r}: one of {', '.join(CHANGES)}")
    if change in ("replace", "add") and not words:
        raise ConfigError(f"change {change!r}: needs words to draw from")
    rng = np.random.default_rng(seed)
    own = caption.split()
    if change == "replace":
        for place in rng.choice(len(own), min(count, len(own)), replace=False):
            own[place] = words[int(rng.integers(len(words)))]
        return " ".join(own)
    for _ in range(count):
        if change == "number":
            word = str(rng.integers(_NUMBERS))
        else:
            pool = own if change == "repeat" else words
            if not pool:  # nothing to repeat
                break
            word = pool[int(rng.integers(len(pool)))]
        own.insert(int(rng.integers(len(own) + 1)), word)
    return " ".join(own)


def words_of(captions: Iterable[str]) -> list[str]:
    """The different words of captions, sorted."""
    return sorted({word for caption in captions for word in caption.split()})


def vocabulary(tokenizer: Any) -> list[str]:
    """The tokens that are words of letters alone, sorted; raises ModelError where there are none.

    Known are the marks of a whole word of CLIP's tokenizer and of T5's.
    """
    tokens = sorted(tokenizer.get_vocab()) if tokenizer is not None else []
    for before, after in _MARKS:
        marked = [token for token in tokens if token.startswith(before) and token.endswith(after)]
        words = [token.removeprefix(before).removesuffix(after) for token in marked]
        if whole := [word for word in words if word.isalpha()]:
            return whole
    raise ModelError(f"{type(tokenizer).__name__}: its words are not known; give words of captions")


def noisy(text: Conditions, noise: float, seeds: Sequence[int]) -> Conditions:
    """The states `text` (n, tokens, d) with Gaussian noise of each row's own seed."""
    states = text.tensor("text")
    added = gaussian(tuple(states.shape[1:]), seeds).to(states.device, states.dtype)
    return Conditions({**text.tensors, "text": states + noise * added})
