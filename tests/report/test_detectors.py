from pathlib import Path

import pytest
from synthetic_run import SyntheticRun

from pipeline.detection.intervals import wilson
from pipeline.detection.roc_intervals import newcombe_auc
from pipeline.ids import prompt_id
from pipeline.io import schemas
from pipeline.io.tables import write_rows
from pipeline.report.collect import collect
from pipeline.report.facts import DetectorTable


def test_detectors_stand_beside_their_baselines(tmp_path: Path) -> None:
    facts = collect(SyntheticRun(tmp_path / "run").everything().context)
    verdict, truth = facts.detectors
    assert (verdict.positives, verdict.negatives) == (2, 5)  # the undecided caption is left out
    assert (truth.positives, truth.negatives) == (2, 5)  # and so is the partial one
    rows = {d.name: d for d in verdict.detectors}
    assert {d.name for d in verdict.detectors if d.baseline} == {
        "n_duplicates", "caption_length", "random", "text_only",
    }  # fmt: skip
    assert rows["noise_gap"].auc == rows["n_duplicates"].auc == 1.0
    assert rows["random"].auc == 0.5
    assert rows["caption_length"].auc == 0.5  # all captions are equally long: ties count half
    assert verdict.families == verdict.positives + verdict.negatives
    assert rows["random"].chance_tpr == pytest.approx(1 / 6)  # above all of five negatives
    assert rows["n_duplicates"].forwards == 0 and rows["noise_gap"].forwards is None


def test_captions_of_one_family_do_not_make_an_interval_narrow(tmp_path: Path) -> None:
    def table(run: Path) -> DetectorTable:
        captions = [f"picture{i % 8} scene{i % 8} thing{i % 8} number {i}" for i in range(24)]
        copies = [64 if i % 8 < 3 else 1 for i in range(24)]
        made = SyntheticRun(run, captions, copies=copies)
        made.dataset()
        made.audit()
        return collect(made.context).detectors[0]

    found = table(tmp_path / "run")
    assert (found.positives, found.negatives, found.families) == (9, 15, 8)
    copies = next(d for d in found.detectors if d.name == "n_duplicates")
    assert copies.auc == 1.0 and copies.auc_low == pytest.approx(newcombe_auc(1.0, 3, 5)[0])
    assert copies.tpr and copies.tpr.ci_low == pytest.approx(wilson(3, 3)[0])


def test_forwards_are_those_that_a_score_takes_alone(tmp_path: Path) -> None:
    made = SyntheticRun(tmp_path / "run")
    made.dataset()
    made.audit()
    rows = [
        {"prompt_id": prompt_id(caption), "seed": seed, "step": step, "timestep": 900 - step}
        | {"x_t_source": source, "dim": 4, "eps_uncond_sq": 1.0, "eps_text_sq": 1.0}
        | {"eps_dot": 0.5, "cos_channel_mean": 0.0, "predicts": "noise"}
        for caption in made.captions
        for seed in range(4)
        for step, source in (
            (0, "pure_noise"), (1, "trajectory"), (2, "trajectory"), (22, "pure_noise")
        )
    ]  # fmt: skip
    write_rows(made.run / "screen.parquet", rows, schemas.SCREEN)
    costs = {d.name: d.forwards for d in collect(made.context).detectors[0].detectors}
    assert costs["noise_gap"] == costs["webster"] == costs["anisotropy_cosine"] == 2 * 4
    assert costs["anisotropy"] == costs["dsm_change"] == 2 * 2 * 4
    assert costs["noise_gap_all"] == 2 * 3 * 4
    assert costs["clique"] == 2 * 25 * made.draws


def test_without_both_classes_there_is_no_table(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run", copies=(1, 1, 2))
    run.dataset()
    run.audit()
    assert collect(run.context).detectors == ()
