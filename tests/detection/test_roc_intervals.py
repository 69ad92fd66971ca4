import numpy as np
import pytest
from scipy.stats import norm

from pipeline.detection import roc_intervals
from pipeline.detection.errors import MeasureError
from pipeline.detection.roc import auc, tpr_at_fpr
from pipeline.detection.roc_intervals import family_bootstrap, newcombe_auc, roc_summary


def test_interval_of_a_perfect_auc_is_not_a_point() -> None:
    low, high = newcombe_auc(1.0, 5, 5)
    # The end solves (1 - t) = 1.959964 sqrt(t (1 - t) (1 + 4 ((1 - t)/(2 - t) + t/(1 + t))) / 25).
    t = low
    spread = 1 + 4 * ((1 - t) / (2 - t) + t / (1 + t))
    assert 1 - t == pytest.approx(1.959964 * np.sqrt(t * (1 - t) * spread / 25), rel=1e-5)
    assert 0.5 < low < 0.8 and high == 1.0


def test_interval_is_symmetric_under_swapping_the_classes() -> None:
    low, high = newcombe_auc(0.8, 20, 30)
    mirrored = newcombe_auc(0.2, 30, 20)
    assert (1 - high, 1 - low) == pytest.approx(mirrored)
    assert low < 0.8 < high


def test_interval_covers_the_true_auc_about_95_times_of_100() -> None:
    rng = np.random.default_rng(0)
    shift, p, q = 1.5, 25, 40
    true = float(norm.cdf(shift / np.sqrt(2)))
    covered = 0
    for _ in range(400):
        positive, negative = rng.normal(shift, 1, p), rng.normal(0, 1, q)
        estimate = float((positive[:, None] > negative).mean())
        low, high = newcombe_auc(estimate, p, q)
        covered += low <= true <= high
    assert 0.92 <= covered / 400 <= 0.99


def families_case(rng, families=24, size=4, shift=1.2):
    """Captions of a family share their label and most of their score."""
    label = np.arange(families) % 2 == 0
    common = rng.normal(shift * label, 1)
    scores = np.repeat(common, size) + rng.normal(0, 0.1, families * size)
    return scores, np.repeat(label, size), np.repeat(np.arange(families), size)


def test_draws_are_what_resampling_rows_gives():
    rng = np.random.default_rng(3)
    families = rng.integers(0, 8, 30)
    labels, scores = rng.random(30) < 0.4, rng.integers(0, 6, 30).astype(float)
    areas, rates = family_bootstrap(scores, labels, families, 0.2, draws=40)
    ids = np.unique(families)
    drawn = np.random.default_rng(0).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), 40)
    expected = []
    for times in drawn:
        rows = np.repeat(np.arange(30), times[np.searchsorted(ids, families)])
        if len(set(labels[rows].tolist())) == 2:
            chosen = scores[rows], labels[rows]
            expected.append((auc(*chosen), tpr_at_fpr(*chosen, 0.2)))
    assert np.allclose(np.stack([areas, rates], axis=1), expected)
    assert len(expected) > 30


def test_draws_in_blocks_are_draws_at_once(monkeypatch):
    case = families_case(np.random.default_rng(0))
    whole = family_bootstrap(*case, 0.1, draws=50)
    monkeypatch.setattr(roc_intervals, "_AT_ONCE", 1)
    assert np.array_equal(whole, family_bootstrap(*case, 0.1, draws=50))


def test_intervals_over_families_cover_and_those_over_captions_do_not():
    true = float(norm.cdf(1.2 / np.sqrt(2)))  # the noise inside a family is small beside it
    covered = naive = 0
    for seed in range(100):
        scores, labels, families = families_case(np.random.default_rng(seed))
        low, high = roc_summary(scores, labels, families, 0.01).auc_ci
        covered += low <= true <= high
        low, high = newcombe_auc(auc(scores, labels), int(labels.sum()), int((~labels).sum()))
        naive += low <= true <= high
    assert covered >= 91
    assert naive <= 80


def test_a_perfect_score_of_few_families_is_not_certain():
    labels = np.arange(20) < 10
    found = roc_summary(labels.astype(float), labels, np.arange(20) // 5, 0.01)
    assert (found.auc, found.tpr) == (1.0, 1.0)
    assert (found.positive_families, found.negative_families) == (2, 2)
    assert found.auc_ci[0] < 0.6 and found.tpr_ci[0] < 0.5
    assert found.auc_ci[1] == found.tpr_ci[1] == 1.0


def test_refuses():
    labels = np.array([True, False])
    with pytest.raises(MeasureError, match="families"):
        roc_summary(np.zeros(2), labels, np.zeros(3, int), 0.01)
    with pytest.raises(MeasureError, match="positives"):
        roc_summary(np.zeros(2), np.ones(2, bool), np.zeros(2, int), 0.01)
