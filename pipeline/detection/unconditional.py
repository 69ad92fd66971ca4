"""The verdict on a picture that no caption asked for, and counts of such pictures.

Carlini et al. 2023, CIFAR-10: a sample is an extraction iff it is nearer to a training image than
half of its mean distance to the 50 nearest ones (pipeline.detection.adaptive_l2). There is no
second seed of the same caption to agree with it, so that one sample decides:

    blank       the sample is of one colour, or nothing but blank images is near     -> none
    verbatim    l2_ratio_50nn < max_l2_ratio_50nn of the image nearest by l2         -> verbatim
    otherwise   what `judge_generation` says of its template; never verbatim

Generators that drew n and m > n samples are compared at n: among n of the m samples, drawn without
replacement, the distinct training images to be expected are (Hurlbert 1971, Ecology 52:577)

    S(n) = sum over images i of  1 - C(m - h_i, n) / C(m, n),     h_i samples show image i
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln

from pipeline.detection.errors import MeasureError
from pipeline.detection.verdict import (
    GenerationEvidence,
    GenerationVerdict,
    Match,
    Thresholds,
    Verdict,
    judge_generation,
)


def judge_unconditional(evidence: GenerationEvidence, thresholds: Thresholds) -> GenerationVerdict:
    """The verdict on one sample; undecided where no training set was searched."""
    judged = judge_generation(evidence, thresholds)
    if evidence.blank or not evidence.searched:
        return judged
    shown = [match for match in evidence.matches if not match.blank]
    nearest = min(shown, key=lambda m: (round(m.l2, 6), m.image_id), default=None)
    if nearest is not None and _is_extracted(nearest, thresholds):
        return GenerationVerdict(evidence.generation_id, Verdict.VERBATIM, nearest.image_id)
    if judged.verdict is Verdict.VERBATIM:
        return GenerationVerdict(evidence.generation_id, Verdict.NONE, None)
    return judged


def _is_extracted(match: Match, limits: Thresholds) -> bool:
    ratio = match.l2_ratio_50nn
    return ratio is not None and round(ratio, 6) < limits.max_l2_ratio_50nn


def rarefied(hits: Sequence[int], samples: int, smaller: int) -> float:
    """S(`smaller`): distinct images expected among so many of the `samples`; `hits` an image each.

    Raises MeasureError unless every count of hits and `smaller` lie within 0..samples.
    """
    counts = np.asarray(hits, np.float64)
    if not 0 <= smaller <= samples or (counts < 0).any() or (counts > samples).any():
        raise MeasureError(f"rarefied: expected counts within 0..{samples}, got {smaller}, {hits}")
    left = samples - counts - smaller  # below 0: too few samples without the image
    possible = left >= 0
    log_missed = (
        gammaln(samples - counts[possible] + 1)
        - gammaln(left[possible] + 1)
        - gammaln(samples + 1)
        + gammaln(samples - smaller + 1)
    )
    missed = np.zeros(len(counts))
    missed[possible] = np.exp(log_missed)
    return float((1 - missed).sum())
