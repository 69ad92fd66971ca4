"""Figures of made-up captions against what a hand counts."""

import numpy as np
import pytest

from tests.bench.audit import carlini, measures
from tests.bench.audit.tables import PUBLISHED, detectors, forwards


def caption(number, label, verdict, *, regime="verbatim", family=None, k=8, **finding):
    return {
        "model": "m-0",
        "prompt_id": number,
        "caption": f"caption {number}",
        "picture_id": str(number),
        "regime": regime,
        "k": k,
        "family": family or str(number),
        "label": label,
        "verdict": verdict,
        "n": 4,
        "p_own": 1.0 if label == "positive" else 0.0,
        "finding": {"prompt_id": number, "caption": "", "n_unet_forwards": 10} | finding,
    }


def test_partial_captions_count_for_neither_precision_nor_recall():
    rows = [
        caption(1, "positive", "verbatim"),
        caption(2, "positive", "none"),
        caption(3, "negative", "template"),
        caption(4, "partial", "verbatim"),
        caption(5, "positive", "template", regime="template"),
    ]
    rates = measures.verdict_rates(rows)
    count = {name: (rate.hits, rate.n) for name, rate in rates.items()}
    assert count["all: precision"] == (2, 3)
    assert count["all: recall"] == (2, 3)
    assert count["verbatim: recall"] == (1, 2)
    assert count["template: precision"] == (1, 2)
    assert count["template: recall"] == (1, 1)


def test_captions_of_one_family_make_the_interval_wide():
    def width(families):
        rows = [
            caption(i, "positive", "verbatim" if i % 20 < 10 else "none", family=families(i))
            for i in range(100)
        ]
        low, high = measures.rate(rows, measures.flagged).families
        return high - low

    assert width(lambda i: str(i % 4 if i % 20 < 10 else 4 + i % 4)) > 2 * width(str)


def test_a_score_is_the_share_of_pairs_in_order():
    rows = [caption(i, "positive", "none", gap=float(i)) for i in range(3, 8)]
    rows += [caption(10 + i, "negative", "none", gap=float(i)) for i in range(5)]
    found = measures.score(rows, {measures.key(r): r["finding"]["gap"] for r in rows})
    pairs = [(a > b) + (a == b) / 2 for a in range(3, 8) for b in range(5)]
    assert found.auc == pytest.approx(np.mean(pairs))
    assert found.tpr == pytest.approx(3 / 5)  # 5, 6 and 7 lie above every negative
    assert (found.positive_families, found.negative_families) == (5, 5)


def test_every_number_of_the_findings_is_a_detector_and_no_text_is():
    rows = [
        caption(1, "positive", "none", new_score=1.0, word="x", flag=True, n_generated=4),
        caption(2, "negative", "none", new_score=None, word="y", flag=False, n_generated=4),
    ]
    assert measures.detector_columns(rows) == ["new_score"]


def test_the_calibration_error_is_that_of_its_formula():
    rows = [
        caption(1, "positive", "verbatim", confidence=0.95),
        caption(2, "negative", "verbatim", confidence=0.95),
        caption(3, "negative", "none", confidence=0.65),
        caption(4, "negative", "undecided", confidence=0.1),
        caption(5, "partial", "verbatim", confidence=0.1),
        caption(6, "negative", "none", confidence=None),
    ]
    error, n = measures.calibration_error(rows)
    assert (n, error) == (3, pytest.approx(2 / 3 * abs(0.95 - 0.5) + 1 / 3 * abs(0.65 - 1)))
    assert measures.calibration_error(rows[4:]) is None


def test_forwards_are_weighed_by_the_prevalence():
    rows = [
        caption(1, "positive", "verbatim", n_unet_forwards=1000),
        caption(2, "negative", "none", n_unet_forwards=8),
    ]
    found = {row["which"]: row["forwards"] for row in forwards(rows, steps=10)}
    assert found["all, as audited"] == 504
    assert found[f"at {PUBLISHED:.3%} memorized"] == pytest.approx(8 + PUBLISHED * 992)


def test_baselines_are_scored_beside_columns():
    rows = [
        caption(i, "positive" if i < 5 else "negative", "none", n_duplicates=20 - i, noise_gap=1.0)
        for i in range(10)
    ]
    found = {row["detector"]: row for row in detectors(rows, {"noise_gap": 8.0})}
    assert found["copies of the group"]["auc"] == 1
    assert (found["noise_gap"]["auc"], found["noise_gap"]["forwards"]) == (0.5, 8.0)
    assert found["caption: words"]["forwards"] == 0


def test_ten_equal_drawings_are_a_clique_and_nine_are_not():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 30, 16, 16, 3), np.uint8)
    pictures[0, :10], pictures[1, :9] = pictures[0, 0], pictures[1, 0]
    rows = [caption(1, "positive", "none"), caption(2, "negative", "none")]
    found = {(p.epsilon, p.drawn): p for p in carlini.points(rows, list(pictures), steps=10)}
    assert found[0.1, 30].found == 1 and found[0.1, 30].false == 0
    assert found[0.1, 30].forwards == 600 and (0.1, 50) not in found


def test_half_of_the_chosen_captions_are_positive():
    rows = [caption(i, "positive" if i % 5 == 0 else "negative", "none") for i in range(100)]
    labels = [row["label"] for row in carlini.chosen(rows, 20)]
    assert labels.count("positive") == labels.count("negative") == 10
