"""What an eraser looks at while it trains: fresh drawings, and a short attack where they pass.

Drawings are judged by the audit's rule against all training pictures. There are as many as it takes
for none of them to bound the rate at `max_rate` (Wilson, 95 %); they are drawn a seed at a time for
all captions, and no further once the bound is out of reach. Seeds are others than those of the
training and of `verify`, which judges with captions that nothing here sees.
"""

from collections.abc import Sequence
from math import ceil

import torch

from pipeline.batches import batched
from pipeline.detection.intervals import wilson
from pipeline.detection.verdict import HITS, judge_generation
from pipeline.erasure.attacks.budgets import EmbeddingBudget
from pipeline.erasure.attacks.run import run_attack
from pipeline.erasure.attacks.subject import Subject
from pipeline.erasure.conclusion import Tally, attempts_needed
from pipeline.erasure.looks import Look, Looks
from pipeline.erasure.targets import Pictures, Target
from pipeline.erasure.trajectories import Walk
from pipeline.generation.backend import DiffusionModel
from pipeline.ids import hash63
from pipeline.runner.part import Context
from pipeline.stages.drawn import seen_in
from pipeline.stages.gallery import Gallery
from pipeline.stages.generate import sampling
from pipeline.stages.judging import limits_of
from pipeline.stages.split import Split

_MAX_KEPT = 48
Wanted = Sequence[tuple[str, int]]


def looks_at(
    model: DiffusionModel,
    targets: Sequence[Target],
    split: Split,
    gallery: Gallery,
    context: Context,
) -> Looks | None:
    """How to look at `model`, or None where nothing is configured to stop the training."""
    stop = context.config.erase.stop
    if stop is None:
        return None
    erased = [(row["caption"], row["group_id"]) for row in split.trained]
    memorized = [row for row in split.retained if row["role"] != "control"]
    kept = [(row["caption"], row["group_id"]) for row in memorized][:_MAX_KEPT]

    def look(iteration: int) -> Look:
        left = _drawn_until_clear(model, erased, stop.max_rate, gallery, context)
        met = wilson(left.hits, left.n)[1] <= stop.max_rate
        attacked = None
        if met and stop.attack is not None:
            attacked = _attacked(model, targets, stop.attack, gallery, context)
            met = attacked.hits <= stop.max_attacked * attacked.n
        still = Tally(len(kept), _hits(model, kept, 0, gallery, context))
        return Look(iteration, left, still, attacked, met)

    return Looks(stop.every, look)


def _drawn_until_clear(
    model: DiffusionModel, wanted: Wanted, max_rate: float, gallery: Gallery, context: Context
) -> Tally:
    rounds = ceil(attempts_needed(max_rate) / len(wanted))
    hits = n = 0
    for number in range(rounds):
        hits += _hits(model, wanted, number, gallery, context)
        n += len(wanted)
        if wilson(hits, rounds * len(wanted))[1] > max_rate:
            break
    return Tally(n, hits)


def _hits(
    model: DiffusionModel, wanted: Wanted, number: int, gallery: Gallery, context: Context
) -> int:
    """How many captions draw a picture of their group with the seed of this number."""
    hits = 0
    for batch in batched(wanted, context.config.generate.batch_size):
        captions = [caption for caption, _ in batch]
        seeds = [hash63("look", context.config.seed, caption, number) for caption in captions]
        drawn = model.draw(captions, seeds, sampling(context))
        shown = _shown(drawn, gallery, context)
        hits += sum(groups == group for groups, (_, group) in zip(shown, batch, strict=True))
    return hits


def _attacked(
    model: DiffusionModel,
    targets: Sequence[Target],
    attack: EmbeddingBudget,
    gallery: Gallery,
    context: Context,
) -> Tally:
    """Attempts of the configured attack that bring the target's picture back."""
    how, hits, n = context.config.generate, 0, 0
    walk = Walk(how.steps, how.guidance)
    for target in targets:
        subject = Subject(target.pictures[0], target.captions)
        with torch.enable_grad():
            attempts = run_attack(
                model, subject, attack, walk, seed=hash63("look", context.config.seed)
            )
        for drawings in attempts.pictures:
            hits += target.group_id in _shown(drawings, gallery, context)
            n += 1
    return Tally(n, hits)


def _shown(drawn: Pictures, gallery: Gallery, context: Context) -> list[int | None]:
    """The group of the training picture that each drawing (n, h, w, 3) shows, None for none."""
    limits = limits_of(context)
    found: list[int | None] = []
    for evidence, _ in seen_in(drawn, gallery):
        judged = judge_generation(evidence, limits)
        image = judged.image_id if judged.verdict in HITS else None
        found.append(None if image is None else gallery.group_of.get(image))
    return found
