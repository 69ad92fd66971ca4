"""How far the words of a caption alone tell whether it is memorized: no model is asked.

A logistic regression on letters: sublinear tf-idf of all runs of 3 to 5 letters, rows of length 1,

    min over w, b of  sum_i s_i log(1 + exp(-y_i (w x_i + b))) + |w|^2 / (2 C),   C = 10, y = +-1,

s_i = n / (2 n of the class of i). Each caption is scored by a fit that saw none of its family
(caption_families.py), over five folds. The 500 memorized against the 500 other captions that NeMo
published (Hintersdorf et al. 2024) give an AUC of 0.974: where a detector does no better, its
figure shows nothing (CopyMark, arXiv:2410.03640, says the same of membership inference). Scores of
five fits are pooled, so a little is lost where folds differ.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

from pipeline.detection.caption_families import Labels
from pipeline.detection.errors import MeasureError

FOLDS = 5
LETTERS = (3, 5)
_C = 10.0
_GRADIENT = 1e-6

Column = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def text_only_scores(captions: Sequence[str], labels: Mask, families: Labels) -> Column:
    """The held-out score w x + b of each of n captions, (n,), high for a positive.

    `labels`, `families`: (n,). Raises MeasureError on shapes that differ, and where a class lies in
    a single family, so that no fit without that family knows it.
    """
    if not len(captions) == len(labels) == len(families):
        raise MeasureError(f"{len(captions)} captions, {len(labels)} labels, {len(families)} ids")
    features = letter_features(captions)
    folds = family_folds(labels, families)
    scores = np.zeros(len(captions))
    for fold in range(FOLDS):
        held_out = folds == fold
        if held_out.any():
            weights, bias = fit_logistic(features[~held_out], labels[~held_out])
            scores[held_out] = features[held_out] @ weights + bias
    return scores


def family_folds(labels: Mask, families: Labels) -> Labels:
    """The fold of each caption, (n,): families stay whole, both classes are spread evenly.

    The largest families first, each to the fold that keeps the squares of the folds' shares of the
    positives and of the negatives smallest. Raises MeasureError as `text_only_scores`.
    """
    for kind in (True, False):
        if len(np.unique(families[labels == kind])) < 2:
            raise MeasureError("labels: expected each class in two families at least")
    ids, place = np.unique(families, return_inverse=True)
    counts = np.zeros((len(ids), 2))
    np.add.at(counts, (place, labels.astype(int)), 1)
    shares = counts / counts.sum(axis=0)
    fold_of, filled = np.zeros(len(ids), np.int64), np.zeros((FOLDS, 2))
    for family in np.argsort(-counts.sum(axis=1), kind="stable"):
        added = ((filled + shares[family]) ** 2 - filled**2).sum(axis=1)
        fold_of[family] = int(np.argmin(added.round(12)))
        filled[fold_of[family]] += shares[family]
    return fold_of[place]


def letter_features(captions: Sequence[str]) -> sparse.csr_array:
    """Sublinear tf-idf (n, runs of letters) of length 1 a row; runs of one caption are left out."""
    counts = [_runs(caption) for caption in captions]
    seen = Counter(run for row in counts for run in row)
    column = {run: j for j, run in enumerate(sorted(run for run, n in seen.items() if n > 1))}
    idf = {run: np.log((1 + len(captions)) / (1 + seen[run])) + 1 for run in column}
    data, indices, ends = [], [], [0]
    for row in counts:
        known = [(column[run], (1 + np.log(n)) * idf[run]) for run, n in row.items() if run in idf]
        length = np.sqrt(sum(value**2 for _, value in known))
        indices += [j for j, _ in known]
        data += [value / length for _, value in known]
        ends.append(len(indices))
    return sparse.csr_array(
        (np.array(data, float), np.array(indices, np.int64), ends), (len(captions), len(column))
    )


def fit_logistic(features: sparse.csr_array, labels: Mask) -> tuple[Column, float]:
    """w (d,) and b of the fit to rows (n, d) with labels (n,); both classes must be there."""
    n, d = features.shape
    y = np.where(labels, 1.0, -1.0)
    weight = n / (2 * np.where(labels, labels.sum(), n - labels.sum()))

    def loss(parameters: Column) -> tuple[float, Column]:
        w, b = parameters[:d], parameters[d]
        margin = y * (features @ w + b)
        value = weight @ np.logaddexp(0, -margin) + w @ w / (2 * _C)
        slope = -weight * y * expit(-margin)
        return value, np.append(features.T @ slope + w / _C, slope.sum())

    options: Any = {"maxiter": 500, "gtol": _GRADIENT, "ftol": 0}
    found: Any = minimize(loss, np.zeros(d + 1), jac=True, method="L-BFGS-B", options=options)
    return found.x[:d], float(found.x[d])


def _runs(caption: str) -> Counter[str]:
    text = f" {' '.join(caption.casefold().split())} "
    low, high = LETTERS
    return Counter(
        text[i : i + size] for size in range(low, high + 1) for i in range(len(text) - size + 1)
    )
