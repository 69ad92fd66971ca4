from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from synthetic_run import SyntheticRun

from pipeline.report.collect import collect
from pipeline.report.detectors import auc_interval


def test_interval_of_a_perfect_auc_is_not_a_point() -> None:
    low, high = auc_interval(1.0, 5, 5)
    # The end solves (1 - t) = 1.959964 sqrt(t (1 - t) (1 + 4 ((1 - t)/(2 - t) + t/(1 + t))) / 25).
    t = low
    spread = 1 + 4 * ((1 - t) / (2 - t) + t / (1 + t))
    assert 1 - t == pytest.approx(1.959964 * np.sqrt(t * (1 - t) * spread / 25), rel=1e-5)
    assert 0.5 < low < 0.8 and high == 1.0


def test_interval_is_symmetric_under_swapping_the_classes() -> None:
    low, high = auc_interval(0.8, 20, 30)
    mirrored = auc_interval(0.2, 30, 20)
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
        low, high = auc_interval(estimate, p, q)
        covered += low <= true <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_detectors_stand_beside_their_baselines(tmp_path: Path) -> None:
    facts = collect(SyntheticRun(tmp_path / "run").everything().context)
    verdict, truth = facts.detectors
    assert (verdict.positives, verdict.negatives) == (2, 5)  # the undecided caption is left out
    assert (truth.positives, truth.negatives) == (2, 5)  # and so is the partial one
    rows = {d.name: d for d in verdict.detectors}
    assert {d.name for d in verdict.detectors if d.baseline} == {
        "n_duplicates", "caption_length", "random",
    }  # fmt: skip
    assert rows["noise_gap"].auc == rows["n_duplicates"].auc == 1.0
    assert rows["random"].auc == 0.5
    assert rows["caption_length"].auc == 0.5  # all captions are equally long: ties count half


def test_without_both_classes_there_is_no_table(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run", copies=(1, 1, 2))
    run.dataset()
    run.audit()
    assert collect(run.context).detectors == ()
