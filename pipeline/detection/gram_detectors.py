"""Detectors that are read off screen.parquet, off-line: a new one costs no forward.

With u_i, c_i the noise predictions without and with the caption at step i of a trajectory from x_T,
D_i = c_i - u_i, each a mean over the seeds of a caption:

    noise_gap           |D_0|                                   Wen et al. 2024 (ICLR)
    noise_gap_all       mean over the stored steps of |D_i|     the same
    webster             mean((u_0 + 7.5 D_0)^2)                 Webster 2023, white box
    anisotropy          w_1 |D_0| s + w_2 cos                   Asthana et al. 2026 (ICLR)
    anisotropy_cosine   cos                                     its second term alone
    dsm_change          |c_1 - c_0|^2                           "Early Detection", ICML 2026 sub.
    dsm_change_2        |c_2 - c_1|^2                           the same, a step later

where cos is the mean over positions of cos(u, D) over the channels, at the last timestep but two
and on x_T itself, pure noise. Asthana's weights are (1, 2) for Stable Diffusion 1, (1, 0.1) for 2
and (2, 1) for Realistic Vision, chosen on the captions they are tested on; s = sqrt(16384 / dim)
brings |D_0| of other latents to the size that these weights were made for (1 for 4 x 64 x 64).
dsm_change is |c_1|^2 + |c_0|^2 - 2 <c_1, c_0>, of scalars stored at both steps.

High means memorized, for every detector of this project: a score that falls with memorization is
to be negated here, and none is turned round after a look at the labels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.detection.noise_gap import GUIDANCE, gap_norm, webster_score
from pipeline.detection.scored_steps import ScoredSteps

ANISOTROPY_WEIGHTS = (1.0, 2.0)
LATE_STEP = -3
"""Which of the sampler's timesteps Asthana's cosine is taken at."""
_PUBLISHED_DIM = 4 * 64 * 64

Scores = dict[int, float]
"""By prompt_id. A caption whose rows do not hold what a detector needs is left out."""


def noise_gap(steps: ScoredSteps, *, first: int | None = 1) -> Scores:
    """Wen's mean of |D| over the `first` steps; None: all that are stored."""
    return steps.mean(gap_norm(steps.gram), steps.first(first), per_seed=first)


def webster(steps: ScoredSteps, *, guidance: float = GUIDANCE) -> Scores:
    """Webster's guided noise energy at the first step, up to the factor sigma_max^2."""
    return steps.mean(webster_score(steps.gram, guidance=guidance), steps.first(), per_seed=1)


def anisotropy_cosine(steps: ScoredSteps) -> Scores:
    """The mean channel cosine of (u, D) at the late step on pure noise."""
    return steps.mean(steps.gram.cos_channel_mean, steps.late(), per_seed=1)


def anisotropy(steps: ScoredSteps, *, weights: tuple[float, float] = ANISOTROPY_WEIGHTS) -> Scores:
    """Asthana's weighted sum of the first noise gap and the late cosine."""
    scale = np.sqrt(_PUBLISHED_DIM / steps.gram.dim)
    gap = steps.mean(gap_norm(steps.gram) * scale, steps.first(), per_seed=1)
    cosine = anisotropy_cosine(steps)
    return {
        prompt: weights[0] * gap[prompt] + weights[1] * cosine[prompt]
        for prompt in gap
        if prompt in cosine
    }


def dsm_change(steps: ScoredSteps, *, after: int = 0) -> Scores:
    """|c_(i+1) - c_i|^2 of the captioned predictions, i = `after`."""
    text = steps.gram.eps_text_sq
    change = np.maximum(text + steps.before(text) - 2 * steps.dot_prev, 0)
    rows = steps.first(after + 2) & (steps.step == after + 1)
    return steps.mean(change, rows, per_seed=1)


@dataclass(frozen=True)
class GramDetector:
    """One detector: its column of findings.parquet, what it is called, where it is from.

    `pairs`: the predictions with and without a caption that it needs of each seed, None: all that
    are stored; two forwards each. A screen that stores them for one detector has them for all.
    """

    name: str
    title: str
    source: str
    score: Callable[[ScoredSteps], Scores]
    pairs: int | None


GRAM_DETECTORS: tuple[GramDetector, ...] = (
    GramDetector("noise_gap", "Noise gap, first step", "Wen 2024", noise_gap, 1),
    GramDetector(
        "noise_gap_all",
        "Noise gap, mean of first steps",
        "Wen 2024",
        lambda steps: noise_gap(steps, first=None),
        None,
    ),
    GramDetector("webster", "Guided noise energy", "Webster 2023", webster, 1),
    GramDetector("anisotropy", "Anisotropy", "Asthana 2026", anisotropy, 2),
    GramDetector(
        "anisotropy_cosine", "Anisotropy, late cosine alone", "Asthana 2026", anisotropy_cosine, 1
    ),
    GramDetector("dsm_change", "Change of the prediction", "Early Detection 2026", dsm_change, 2),
    GramDetector(
        "dsm_change_2",
        "Change of the prediction, second step",
        "Early Detection 2026",
        lambda steps: dsm_change(steps, after=1),
        3,
    ),
)
