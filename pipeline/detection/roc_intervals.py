"""How sure an AUC and a true positive rate are, where captions come in families.

    bootstrap    families are drawn with replacement, each with all its captions; 2.5 % and 97.5 %
                 of the draws (Field and Welsh 2007, the cluster bootstrap)
    Newcombe     the ends t of an AUC's interval solve  |t - auc| = z sqrt(t (1 - t) s / (p q)),
                 s = 1 + m ((1 - t) / (2 - t) + t / (1 + t)),  m = (p + q) / 2 - 1
                 (2006, Statistics in Medicine 25:559, method 5, on the variance of Hanley and
                 McNeil 1982), p and q the families with positives and with negatives

An interval here is the wider of both; of a rate, of the bootstrap and of Wilson's at p families.
The bootstrap alone would call an AUC of 1 from five captions certain.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import norm

from pipeline.detection.caption_families import Labels
from pipeline.detection.errors import MeasureError
from pipeline.detection.intervals import wilson
from pipeline.detection.roc import auc, tpr_at_fpr

DRAWS = 1000
_AT_ONCE = 1 << 22
_Z = float(norm.ppf(0.975))

Column = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Interval = tuple[float, float]


@dataclass(frozen=True)
class RocSummary:
    """AUC and TPR at a false positive rate, with 95 % intervals over families."""

    auc: float
    auc_ci: Interval
    tpr: float
    tpr_ci: Interval
    positive_families: int
    negative_families: int


def roc_summary(scores: Column, labels: Mask, families: Labels, fpr: float) -> RocSummary:
    """Of scores (n,) with labels (n,) and families (n,); the draws are the same every time.

    Raises MeasureError on shapes that differ, scores not finite, or a class that is missing.
    """
    area, rate = auc(scores, labels), tpr_at_fpr(scores, labels, fpr)
    if families.shape != scores.shape:
        raise MeasureError(f"families: expected {scores.shape}, got {families.shape}")
    p, q = len(np.unique(families[labels])), len(np.unique(families[~labels]))
    areas, rates = family_bootstrap(scores, labels, families, fpr)
    return RocSummary(
        auc=area,
        auc_ci=_wider(newcombe_auc(area, p, q), areas),
        tpr=rate,
        tpr_ci=_wider(wilson(round(rate * p), p), rates),
        positive_families=p,
        negative_families=q,
    )


def family_bootstrap(
    scores: Column, labels: Mask, families: Labels, fpr: float, *, draws: int = DRAWS
) -> tuple[Column, Column]:
    """AUCs and TPRs at `fpr` of samples of families drawn with replacement.

    A draw without positives or without negatives is left out.
    """
    ids, family = np.unique(families, return_inverse=True)
    _, tied = np.unique(-scores, return_inverse=True)  # place of each score, the highest first
    areas, rates = [], []
    for times in _draws(len(ids), draws, len(scores)):
        weight = times[:, family]
        positives = _summed(weight * labels, tied)
        negatives = _summed(weight * ~labels, tied)
        true, false = positives.cumsum(axis=1), negatives.cumsum(axis=1)
        usable = (true[:, -1] > 0) & (false[:, -1] > 0)
        positives, negatives, true, false = (
            values[usable] for values in (positives, negatives, true, false)
        )
        below = false[:, -1:] - false + negatives / 2
        areas.append((positives * below).sum(axis=1) / (true[:, -1] * false[:, -1]))
        allowed = (false / false[:, -1:] < fpr).sum(axis=1)
        reached = np.concatenate([np.zeros((len(true), 1)), true], axis=1)
        rates.append(reached[np.arange(len(true)), allowed] / true[:, -1])
    return np.concatenate(areas), np.concatenate(rates)


def newcombe_auc(estimate: float, positives: int, negatives: int) -> Interval:
    """Newcombe's 95 % interval of an AUC from so many independent positives and negatives."""

    def excess(t: float) -> float:
        m = (positives + negatives) / 2 - 1
        spread = 1 + m * ((1 - t) / (2 - t) + t / (1 + t))
        half = _Z * sqrt(max(t * (1 - t), 0.0) * spread / (positives * negatives))
        return abs(t - estimate) - half

    inside = 1e-9  # the estimate itself is a root where it is 0 or 1
    low = brentq(excess, 0.0, estimate - inside) if estimate > inside else 0.0
    high = brentq(excess, estimate + inside, 1.0) if estimate < 1 - inside else 1.0
    return float(low), float(high)


def _draws(families: int, draws: int, captions: int) -> Iterator[npt.NDArray[np.int64]]:
    """How often each family is drawn, (some draws, families)."""
    rng = np.random.default_rng(0)
    at_once = max(1, _AT_ONCE // max(captions, 1))
    share = np.full(families, 1 / families)
    for start in range(0, draws, at_once):
        yield rng.multinomial(families, share, size=min(at_once, draws - start))


def _summed(values: npt.NDArray[np.int64], place: Labels) -> npt.NDArray[np.int64]:
    """Sums of the columns (draws, n) that have one place."""
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(place.max() + 1))
    return np.add.reduceat(values[:, order], starts, axis=1)


def _wider(interval: Interval, draws: Column) -> Interval:
    if not len(draws):
        return interval
    low, high = np.quantile(draws, [0.025, 0.975])
    return min(interval[0], float(low)), max(interval[1], float(high))
