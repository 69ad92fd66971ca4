"""How well scores (high = positive) part positives from negatives.

    AUC = P(positive > negative) + P(positive = negative) / 2        (Mann and Whitney 1947)
    TPR at FPR f = the share of positives >= s, at the lowest s that < f of the negatives reach

The TPR is the conservative one, as Wen et al. 2024 take it: a point of the curve itself, never
interpolated, never one at f or beyond. Equal scores cross the threshold together. So 1 % of a
hundred negatives or fewer is none of them.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from pipeline.detection.errors import MeasureError


def auc(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve of scores (n,) with labels (n,).

    Raises MeasureError on shapes that differ, scores not finite, or a class that is missing.
    """
    positives, negatives = _parted(scores, labels)
    ranks = rankdata(np.concatenate([positives, negatives]))
    n_pos, n_neg = len(positives), len(negatives)
    wins = ranks[:n_pos].sum() - n_pos * (n_pos + 1) / 2
    return float(wins / (n_pos * n_neg))


def tpr_at_fpr(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_], fpr: float) -> float:
    """The largest true positive rate at a false positive rate < `fpr`; errors as in `auc`."""
    positives, negatives = _parted(scores, labels)
    thresholds = np.unique(positives)
    reached = len(negatives) - np.searchsorted(np.sort(negatives), thresholds, side="left")
    allowed = thresholds[reached / len(negatives) < fpr]
    return float((positives >= allowed[0]).mean()) if len(allowed) else 0.0


def random_tpr(negatives: int, fpr: float) -> float:
    """What a score that knows nothing reaches on average: the share above k + 1 of n negatives.

    k, the negatives that a threshold may let through, is the largest number below n `fpr`; a
    positive ranks among the first k + 1 of n + 1 with that probability.
    """
    allowed = math.ceil(round(negatives * fpr, 9)) - 1
    return (allowed + 1) / (negatives + 1) if allowed >= 0 else 0.0


def _parted(
    scores: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if scores.ndim != 1 or scores.shape != labels.shape or labels.dtype != np.bool_:
        raise MeasureError(
            f"scores: expected (n,) and bool (n,), got {scores.shape}, {labels.shape}"
        )
    if not np.isfinite(scores).all():
        raise MeasureError("scores: expected finite values")
    if labels.all() or not labels.any():
        raise MeasureError("labels: expected positives and negatives")
    return scores[labels], scores[~labels]
