import numpy as np
import pytest

from pipeline.detection.caption_families import caption_families
from pipeline.detection.errors import MeasureError
from pipeline.detection.roc import auc
from pipeline.detection.text_only import (
    FOLDS,
    family_folds,
    fit_logistic,
    letter_features,
    text_only_scores,
)

NOUNS = ["cat", "river", "engine", "violin", "desert", "castle", "orchid", "comet", "ferry", "loom"]


def test_features_against_counting_by_hand():
    captions = ["ab ab", "AB", "cd"]
    found = letter_features(captions).toarray()
    # runs that two captions have: those of " ab ", twice in " ab ab " as the inner space counts
    # for both; those across it are the first caption's alone
    runs = [" ab", " ab ", "ab "]
    counts = np.array([[2, 2, 2], [1, 1, 1], [0, 0, 0]], float)
    assert found.shape == (3, len(runs))
    idf = np.log(4 / 3) + 1
    weights = np.where(counts > 0, (1 + np.log(np.maximum(counts, 1))) * idf, 0)
    lengths = np.sqrt((weights**2).sum(axis=1, keepdims=True))
    assert np.allclose(found, np.divide(weights, lengths, where=lengths > 0, out=0 * weights))


def test_the_fit_is_the_minimum():
    """The objective as written in the module, convex: it is flat at its minimum, and only there."""
    rng = np.random.default_rng(0)
    captions = [" ".join(rng.choice(NOUNS, 3)) for _ in range(30)]
    features = letter_features(captions)
    labels = rng.random(30) < 0.3
    weights, bias = fit_logistic(features, labels)
    rows = features.toarray()

    def objective(w, b):
        total = w @ w / 20
        for x, positive in zip(rows, labels, strict=True):
            share = 30 / (2 * (labels == positive).sum())
            total += share * np.log1p(np.exp(-(1 if positive else -1) * (w @ x + b)))
        return total

    least, step = objective(weights, bias), 1e-4
    for axis in [*np.eye(len(weights)), None]:
        w, b = (0 * weights, step) if axis is None else (step * axis, 0.0)
        up, down = objective(weights + w, bias + b), objective(weights - w, bias - b)
        assert abs(up - down) / (2 * step) < 1e-4
        assert min(up, down) > least - 1e-9
    assert 0.1 < np.abs(weights).max() < 10


def test_folds_hold_families_whole_and_classes_even():
    rng = np.random.default_rng(0)
    families = rng.integers(0, 60, 400)
    labels = (families % 3 == 0) ^ (rng.random(400) < 0.1)
    folds = family_folds(labels, families)
    assert all(len(set(folds[families == f].tolist())) == 1 for f in range(60))
    for kind in (labels, ~labels):
        shares = np.bincount(folds[kind], minlength=FOLDS) / kind.sum()
        assert np.abs(shares - 0.2).max() < 0.05


def test_style_is_found():
    rng = np.random.default_rng(0)
    shop = [f"Buy {a} {b} Print SALE 50%" for a, b in rng.choice(NOUNS, (30, 2))]
    prose = [f"a painting of {a} and of {b}, quiet" for a, b in rng.choice(NOUNS, (40, 2))]
    labels = np.arange(70) < 30
    scores = text_only_scores([*shop, *prose], labels, np.arange(70))
    assert auc(scores, labels) == 1.0


def test_families_are_not_recognised():
    """Labels that are random by family are learnt only where families are split."""
    rng = np.random.default_rng(1)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    stems = ["".join(rng.choice(letters, 12)) for _ in range(60)]
    captions = [f"{stem} {stem[::-1]} {n}" for stem in stems for n in "123"]
    labels = np.repeat(rng.random(60) < 0.5, 3)
    families = caption_families(captions)
    assert len(set(families.tolist())) == 60
    assert auc(text_only_scores(captions, labels, np.arange(180)), labels) > 0.95
    assert 0.3 < auc(text_only_scores(captions, labels, families), labels) < 0.7


def test_refuses():
    with pytest.raises(MeasureError, match="two families"):
        text_only_scores(["a", "b", "c"], np.array([True, False, False]), np.arange(3))
    with pytest.raises(MeasureError, match="3 captions, 2 labels"):
        text_only_scores(["a", "b", "c"], np.array([True, False]), np.arange(3))


def test_captions_that_share_nothing():
    scores = text_only_scores(list("abcd"), np.array([True, True, False, False]), np.arange(4))
    assert np.isfinite(scores).all()
