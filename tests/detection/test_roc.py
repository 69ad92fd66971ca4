import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detection.errors import MeasureError
from pipeline.detection.roc import auc, random_tpr, tpr_at_fpr


@st.composite
def scored(draw):
    n = draw(st.integers(2, 14))
    labels = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda x: len(set(x)) > 1))
    scores = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    return np.array(scores, float), np.array(labels)


@given(scored())
def test_auc_counts_pairs(case):
    scores, labels = case
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))
    assert auc(-scores, labels) == pytest.approx(1 - np.mean(pairs))


@given(scored(), st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 1.0]))
def test_tpr_is_the_best_over_all_thresholds(case, fpr):
    scores, labels = case
    best = 0.0
    for threshold in [*sorted(set(scores.tolist())), np.inf]:
        flagged = scores >= threshold
        if (flagged & ~labels).sum() / (~labels).sum() < fpr:
            best = max(best, (flagged & labels).sum() / labels.sum())
    assert tpr_at_fpr(scores, labels, fpr) == pytest.approx(best)


def test_counted_by_hand():
    #          +    +    -    +    -    -    +    -
    scores = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0])
    labels = np.array([True, True, False, True, False, False, True, False])
    # wins over 4 negatives: 4 + 4 + 3 + 1
    assert auc(scores, labels) == 12 / 16
    assert tpr_at_fpr(scores, labels, 0.0) == 0.0
    assert tpr_at_fpr(scores, labels, 0.25) == 0.5
    assert tpr_at_fpr(scores, labels, 0.26) == 0.75
    assert tpr_at_fpr(scores, labels, 0.76) == 1.0


def test_a_tie_with_a_negative_cannot_be_used():
    scores, labels = np.array([1.0, 1.0, 1.0, 0.0]), np.array([True, True, False, False])
    assert tpr_at_fpr(scores, labels, 0.5) == 0.0
    assert tpr_at_fpr(scores, labels, 0.51) == 1.0
    assert auc(scores, labels) == 0.75


def test_a_constant_detector_is_worth_nothing():
    labels = np.arange(100) < 50
    assert auc(np.zeros(100), labels) == 0.5
    assert tpr_at_fpr(np.zeros(100), labels, 0.01) == 0.0


@given(scored(), st.randoms(use_true_random=False))
def test_order_does_not_matter(case, random):
    scores, labels = case
    order = list(range(len(scores)))
    random.shuffle(order)
    assert auc(scores[order], labels[order]) == auc(scores, labels)
    assert tpr_at_fpr(scores[order], labels[order], 0.3) == tpr_at_fpr(scores, labels, 0.3)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (np.zeros(3), np.ones(3, bool)),
        (np.zeros(3), np.zeros(3, bool)),
        (np.zeros(3), np.array([True, False])),
        (np.array([np.nan, 0.0]), np.array([True, False])),
        (np.zeros(2), np.array([1, 0])),
    ],
)
def test_refuses(scores, labels):
    with pytest.raises(MeasureError):
        auc(scores, labels)


@pytest.mark.parametrize(("negatives", "fpr"), [(7, 0.01), (7, 0.3), (20, 0.1), (20, 0.11)])
def test_what_chance_reaches(negatives, fpr):
    rng = np.random.default_rng(0)
    labels = np.arange(40 + negatives) < 40
    found = [tpr_at_fpr(rng.random(len(labels)), labels, fpr) for _ in range(3000)]
    assert random_tpr(negatives, fpr) == pytest.approx(np.mean(found), abs=0.012)
    assert random_tpr(negatives, 0.0) == 0.0
