"""What a memorized caption may draw instead: drawings of other captions that are no copies.

After Kumari et al. 2023, whose anchors are drawings of paraphrases that a copy detector clears;
here the captions are those of the retained controls that are nearest to the target's, by the cosine
of their mean text states, so that no language model is needed.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from pipeline.batches import batched
from pipeline.detection.verdict import Verdict, judge_generation
from pipeline.erasure.targets import Pictures, no_pictures
from pipeline.generation.backend import DiffusionModel
from pipeline.ids import hash63
from pipeline.runner.part import Context
from pipeline.stages.drawn import seen_in
from pipeline.stages.gallery import Gallery
from pipeline.stages.generate import sampling
from pipeline.stages.judging import limits_of

_CAPTIONS = 8
_EACH = 2


def draw_anchors(
    model: DiffusionModel,
    captions: Sequence[str],
    pool: Sequence[str],
    gallery: Gallery,
    context: Context,
) -> tuple[Pictures, tuple[str, ...]]:
    """Anchors (n, s, s, 3) of a target with `captions`, and the caption of each; `pool` may be ().

    Drawn by the model as it stands. None where all drawings are copies of training pictures.
    """
    chosen = nearest_captions(model, captions, pool, _CAPTIONS) or [""]
    jobs = [(caption, number) for caption in chosen for number in range(_EACH)]
    pictures: list[np.ndarray] = []
    shown: list[str] = []
    for batch in batched(jobs, context.config.generate.batch_size):
        seeds = [hash63("anchor", context.config.seed, *captions, *job) for job in batch]
        drawn = model.draw([caption for caption, _ in batch], seeds, sampling(context))
        for picture, (caption, _), copied in zip(
            drawn, batch, _are_copies(drawn, gallery, context), strict=True
        ):
            if not copied:
                pictures.append(picture)
                shown.append(caption)
    return (np.stack(pictures) if pictures else no_pictures()), tuple(shown)


@torch.no_grad()
def nearest_captions(
    model: DiffusionModel, captions: Sequence[str], pool: Sequence[str], count: int
) -> list[str]:
    """Of `pool` the captions nearest to any of `captions`, nearest first."""
    others = sorted(set(pool) - set(captions))
    if not others:
        return []
    states = model.embed_text([*captions, *others]).float().mean(dim=1)
    states = normalize(states - states.mean(dim=0), dim=1)
    near = (states[: len(captions)] @ states[len(captions) :].T).amax(dim=0).tolist()
    ranked = sorted(range(len(others)), key=lambda i: (-round(near[i], 4), others[i]))
    return [others[i] for i in ranked[:count]]


def _are_copies(drawn: Pictures, gallery: Gallery, context: Context) -> list[bool]:
    """Whether each drawing shows a training picture, may show one, or shows nothing."""
    limits = limits_of(context)
    return [
        evidence.blank or judge_generation(evidence, limits).verdict is not Verdict.NONE
        for evidence, _ in seen_in(drawn, gallery)
    ]
