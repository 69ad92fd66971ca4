"""The verdict on one caption, from all generations that were made for it.

A generation is a hit if it is verbatim or template on its own, or template if most generations
agree: at least `clique_fraction` of all and `min_hits` of them come nearest to one training picture
(or its near-duplicates), each much nearer than to any other (`verdict.leaning`). One blurred
drawing is nearest to something; other seeds would be nearest to something else.

A clique is large if it holds at least `clique_fraction` of all generations and `min_hits` of them.
In this order:

    verbatim     min_hits verbatim generations, or a large clique with one in it
    template     min_hits hits, or a large clique with a hit in it
    undecided    any hit, any generation in doubt, or a large clique: the model repeats itself, but
                 what it repeats is not among the training images (or none were given), and is not
                 a common object, as near to training images of several groups;
                 or, without a training set, too few generations to form a clique
    none         otherwise

Members of a clique are near-copies of each other, so one match speaks for all. Generations that
show nothing are no members: a safety checker's black frames, or placeholders, would be the largest
clique there is. They stay in the count of generations. Without a training set only undecided and
none can be reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.detection.cliques import Clique, largest_clique
from pipeline.detection.errors import MeasureError
from pipeline.detection.intervals import wilson
from pipeline.detection.verdict import (
    HITS,
    GenerationEvidence,
    GenerationVerdict,
    Thresholds,
    Verdict,
    is_common,
    judge_generation,
    leaning,
    shows_nothing,
)


@dataclass(frozen=True)
class CaptionVerdict:
    """The verdict on a caption and its figures.

    `rate` = n_hits / n_generated (0 of none) with its 95 % Wilson interval. `image_ids`: the
    training images that hits rest on, ascending; `hit_ids`: the hits' generation ids, ascending.
    `clique_ids`: generation ids of the largest clique; `clique_distance`: its mean tiled l2, None
    below two members; `clique_capped`: a larger one may exist. `generations`: by generation_id.
    """

    verdict: Verdict
    n_generated: int
    n_hits: int
    n_verbatim: int
    rate: float
    ci_low: float
    ci_high: float
    clique_size: int
    clique_distance: float | None
    clique_capped: bool
    clique_ids: tuple[int, ...]
    hit_ids: tuple[int, ...]
    image_ids: tuple[int, ...]
    generations: tuple[GenerationVerdict, ...]


def judge_caption(
    evidence: Sequence[GenerationEvidence],
    distances: npt.NDArray[np.float64],
    thresholds: Thresholds,
) -> CaptionVerdict:
    """The verdict on the caption of n generations with tiled l2 `distances` (n, n) between them.

    The order of the generations does not matter (that of `distances` must be theirs).
    Raises MeasureError on ids that repeat and on a matrix that does not fit.
    """
    ids = [item.generation_id for item in evidence]
    if len(set(ids)) != len(ids) or distances.shape != (len(ids), len(ids)):
        raise MeasureError(f"caption: {len(set(ids))} ids, {len(ids)} rows, {distances.shape}")
    order = np.argsort(np.array(ids, dtype=np.int64))
    ranked = [evidence[int(i)] for i in order]
    agreed = _agreed(ranked, thresholds)
    judged = tuple(
        _joined(judge_generation(item, thresholds), agreed.get(i)) for i, item in enumerate(ranked)
    )
    clique = _clique_of_pictures(ranked, distances[np.ix_(order, order)], thresholds)
    return _caption_verdict(judged, clique, _decide(ranked, judged, clique, thresholds))


def _agreed(evidence: Sequence[GenerationEvidence], thresholds: Thresholds) -> dict[int, int]:
    """The generations, by place, that agree on a training picture, with the image of each."""
    votes: dict[int, dict[int, int]] = {}
    for place, item in enumerate(evidence):
        nearest = leaning(item, thresholds)
        if nearest is not None:
            votes.setdefault(nearest.picture, {})[place] = nearest.image_id
    most = max(votes.values(), key=len, default={})
    return most if is_most(len(most), len(evidence), thresholds) else {}


def _joined(judged: GenerationVerdict, agreed_image: int | None) -> GenerationVerdict:
    if agreed_image is None or judged.verdict in HITS:
        return judged
    return GenerationVerdict(judged.generation_id, Verdict.TEMPLATE, agreed_image)


def is_most(size: int, n: int, thresholds: Thresholds) -> bool:
    """Whether `size` of a caption's n generations speak for all of them."""
    needed = max(thresholds.min_hits, thresholds.clique_fraction * n)
    return round(size - needed, 6) >= 0


def _clique_of_pictures(
    evidence: Sequence[GenerationEvidence],
    distances: npt.NDArray[np.float64],
    thresholds: Thresholds,
) -> Clique:
    shown = [i for i, item in enumerate(evidence) if not shows_nothing(item, thresholds)]
    between = distances[np.ix_(shown, shown)]
    clique = largest_clique(between, thresholds.clique_epsilon, cap=thresholds.clique_cap)
    members = tuple(shown[i] for i in clique.members)
    return Clique(members, clique.mean_distance, clique.capped)


def _decide(
    evidence: Sequence[GenerationEvidence],
    judged: Sequence[GenerationVerdict],
    clique: Clique,
    thresholds: Thresholds,
) -> Verdict:
    large = is_most(len(clique.members), len(judged), thresholds)
    in_clique = {judged[i].verdict for i in clique.members} if large else set()
    verdicts = [item.verdict for item in judged]
    n_verbatim = verdicts.count(Verdict.VERBATIM)
    n_hits = n_verbatim + verdicts.count(Verdict.TEMPLATE)
    if n_verbatim >= thresholds.min_hits or Verdict.VERBATIM in in_clique:
        return Verdict.VERBATIM
    if n_hits >= thresholds.min_hits or Verdict.TEMPLATE in in_clique:
        return Verdict.TEMPLATE
    doubts = any(
        item.verdict is Verdict.UNDECIDED and seen.searched
        for item, seen in zip(judged, evidence, strict=True)
    )
    untested = len(judged) < thresholds.min_hits and not any(item.searched for item in evidence)
    common = all(is_common(evidence[i], thresholds) for i in clique.members)
    repeats = large and not common
    return Verdict.UNDECIDED if n_hits or doubts or repeats or untested else Verdict.NONE


def _caption_verdict(
    judged: tuple[GenerationVerdict, ...], clique: Clique, verdict: Verdict
) -> CaptionVerdict:
    hits = [item for item in judged if item.verdict in HITS]
    low, high = wilson(len(hits), len(judged))
    size = len(clique.members)
    return CaptionVerdict(
        verdict=verdict,
        n_generated=len(judged),
        n_hits=len(hits),
        n_verbatim=sum(item.verdict is Verdict.VERBATIM for item in hits),
        rate=len(hits) / len(judged) if judged else 0.0,
        ci_low=low,
        ci_high=high,
        clique_size=size,
        clique_distance=clique.mean_distance if size > 1 else None,
        clique_capped=clique.capped,
        clique_ids=tuple(judged[i].generation_id for i in clique.members),
        hit_ids=tuple(item.generation_id for item in hits),
        image_ids=tuple(sorted({item.image_id for item in hits if item.image_id is not None})),
        generations=judged,
    )
