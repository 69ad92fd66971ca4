"""Thresholds against a brute-force count over all pairs, in plain Python."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from pipeline.calibration.thresholds import (
    Labelled,
    least_strict,
    most_false,
    operate,
    score,
)
from pipeline.detection.intervals import upper_bound, wilson


def clouds(metric="cosine", originals=40, edited=25, noise=0.6, seed=0):
    """Originals at random, edits around the first of them, one pair of originals alike."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((originals, 16))
    centres[edited] = centres[3] + 0.15 * rng.standard_normal(16)
    rows, original, edit = [], [], []
    for i, centre in enumerate(centres):
        for name in ["original", *(("near", "far") if i < edited else ())]:
            spread = {"original": 0, "near": 0.3, "far": 1}[name] * noise
            rows.append(centre + spread * rng.standard_normal(16))
            original.append(i)
            edit.append(name)
    vectors = np.array(rows)
    if metric == "cosine":
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    else:
        planes = rng.standard_normal((16, 256))
        vectors = np.packbits(vectors @ planes > 0, axis=1)
    return Labelled(
        vectors, metric, np.array(original), np.array(edit), np.ones(len(vectors), bool)
    )


def bits_between(u, v, mirror):
    """The least over the codes of 32 bytes that lie side by side, and over mirrored ones."""
    masks = [np.zeros(32, np.uint8)] + ([] if mirror is None else [mirror])
    return min(
        sum(bin(int(x) ^ int(y) ^ int(m)).count("1") for x, y, m in zip(a, b, mask, strict=True))
        for a in u.reshape(-1, 32)
        for b in v.reshape(-1, 32)
        for mask in masks
    )


def brute(labelled):
    """Every pair's similarity and whether it is true, one at a time."""
    pairs = []
    for a, b in combinations(np.flatnonzero(labelled.usable), 2):
        u, v = labelled.vectors[a], labelled.vectors[b]
        if labelled.metric == "hamming":
            near = 1 - bits_between(u, v, labelled.mirror) / 256
        else:
            u, v = u.astype(np.float64), v.astype(np.float64)
            near = round(float(u @ v / np.sqrt((u @ u) * (v @ v))), 6)
        pairs.append((near, labelled.original[a] == labelled.original[b], int(a), int(b)))
    return pairs


def turned(seed=1):
    """`clouds` of two codes a row, of which the second is a stranger's, and some are mirrored."""
    one, other = clouds("hamming"), clouds("hamming", seed=seed)
    mirror = np.packbits(np.arange(256) % 2 == 0)
    first = one.vectors.copy()
    first[::3] ^= mirror
    both = np.concatenate([first, other.vectors], axis=1)
    both[1::2] = np.roll(both[1::2], 32, axis=1)
    return replace(one, vectors=both, mirror=mirror)


@pytest.mark.parametrize("metric", ["cosine", "hamming", "turned"])
@pytest.mark.parametrize("target", [0.5, 0.9, 0.99, 1.0])
def test_the_least_strict_threshold_is_that_of_brute_force(metric, target, monkeypatch):
    monkeypatch.setattr("pipeline.calibration.thresholds._ROWS_AT_ONCE", 13)
    labelled = turned() if metric == "turned" else clouds(metric)
    pairs = brute(labelled)

    def precision(t):
        found = [true for near, true, _, _ in pairs if near >= t]
        return sum(found) / len(found)

    expected = min(near for near, true, _, _ in pairs if true and precision(near) >= target)
    scores = score(labelled, most_false(labelled, target) + 1)
    assert least_strict(scores, target) == pytest.approx(expected, abs=1e-9)
    found = operate(scores, least_strict(scores, target))
    above = [(true, a, b) for near, true, a, b in pairs if near >= found.similarity]
    assert (found.true_pairs, found.false_pairs) == (
        sum(true for true, _, _ in above),
        sum(not true for true, _, _ in above),
    )
    assert found.precision >= target
    wrong = {
        tuple(sorted((int(labelled.original[a]), int(labelled.original[b]))))
        for true, a, b in above
        if not true
    }
    assert {(a, b) for a, b, _ in found.worst} == wrong
    units = {int(labelled.original[a]) for true, a, _ in above if true}
    assert found.precision_interval == wilson(len(units), len(units) + len(wrong))
    assert found.false_rate_bound == upper_bound(len(wrong), 40 * 39 // 2)


def test_recall_is_of_pairs_with_the_original():
    labelled = clouds()
    pairs = brute(labelled)
    found = operate(score(labelled, 10**6), 0.9)
    for name in ("near", "far"):
        hits = sum(
            near >= 0.9 and true and {labelled.edit[a], labelled.edit[b]} == {"original", name}
            for near, true, a, b in pairs
        )
        assert (found.recall[name].hits, found.recall[name].n) == (hits, 25)
    assert 0 < found.recall["far"].hits < found.recall["near"].hits
    share = [found.recall[name].hits / 25 for name in ("near", "far")]
    assert found.mean_recall == pytest.approx(np.mean(share))


def test_what_no_search_finds_counts_as_missed():
    labelled = clouds()
    usable = labelled.edit != "near"
    blind = Labelled(labelled.vectors, "cosine", labelled.original, labelled.edit, usable)
    found = operate(score(blind, 10**6), 0.5)
    assert (found.recall["near"].hits, found.recall["near"].n) == (0, 25)
    assert found.recall["far"].hits > 0


def test_no_threshold_where_a_stranger_is_nearer_than_every_copy():
    vectors = np.array([[1, 0], [0.6, 0.8], [1, 0.01], [0, 1]], np.float64)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    labelled = Labelled(
        vectors,
        "cosine",
        np.array([0, 0, 1, 2]),
        np.array(["original", "near", "original", "original"]),
        np.ones(4, bool),
    )
    assert least_strict(score(labelled, most_false(labelled, 0.9) + 1), 0.9) is None


def test_one_unlucky_pair_of_pictures_is_one_unit():
    """17 x 17 false pairs of two look-alikes weigh as one in the interval, as they should."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, 32))
    centres[1] = centres[0]
    rows = np.repeat(centres, 10, axis=0) + 0.01 * rng.standard_normal((600, 32))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    names = np.array(["original", *(f"e{i}" for i in range(9))] * 60)
    labelled = Labelled(vectors, "cosine", np.repeat(np.arange(60), 10), names, np.ones(600, bool))
    found = operate(score(labelled, 10**6), 0.9)
    assert (found.false_pairs, len(found.worst)) == (100, 1)
    assert found.precision_interval == wilson(60, 61)


def test_false_pairs_below_the_floor_cannot_be_asked_about():
    labelled = clouds()
    scores = score(labelled, 3)
    assert np.isfinite(scores.floor)
    with pytest.raises(ValueError, match="were kept"):
        operate(scores, scores.floor - 0.01)
