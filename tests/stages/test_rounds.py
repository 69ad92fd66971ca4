"""Drawings in rounds, on a tiny random model whose captions draw noise: nothing is memorized."""

import json

import pyarrow.parquet as pq
import pytest
from shard_builder import ShardBuilder, jpeg, picture
from tiny_model import build_tiny_pipeline

from pipeline.calibration.audit import calibrate_audit
from pipeline.calibration.audit_record import read_audit_calibration
from pipeline.config import make_config
from pipeline.errors import ConfigError, FingerprintMismatch, MissingInput
from pipeline.jobs import Job, run_job
from pipeline.registry import AUDIT, DEDUP
from pipeline.runner.part import Context
from pipeline.runner.progress import SilentProgress
from pipeline.stages.judging import limits_of

STEPS = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """24 pictures seen once and two groups of three, deduplicated; a tiny model."""
    root = tmp_path_factory.mktemp("rounds")
    shard = ShardBuilder(root / "shards" / "00000.tar")
    for number in range(24):
        shard.add(f"a{number}", jpeg(picture(number)), f"number {number}")
    for copy in range(2):
        for number in (3, 5):
            shard.add(f"c{number}-{copy}", jpeg(picture(number), 80 - copy), f"number {number}")
    shard.write()
    config = make_config({"dataset": {"shards": [str(root / "shards")]}})
    run_job(Job(config, root / "train", DEDUP), SilentProgress())
    build_tiny_pipeline(root / "model")
    return root


def audit(root, name, *, verdict=None, **generate):
    values = {
        "train": str(root / "train"),
        "model": {"path": str(root / "model")},
        "prompts": {"controls": 22},
        "screen": {"seeds": 1, "steps": 1},
        "generate": {"per_prompt": 6, "steps": STEPS, "prompts_per_part": 4, **generate},
        "match": {"compare_px": 16},
        "verdict": verdict or {},
    }
    config = make_config(values)
    run_job(Job(config, root / name, AUDIT), SilentProgress())
    return pq.read_table(root / name / "findings.parquet").to_pylist()


def drawn(root, name):
    rows = []
    for path in sorted((root / name / "generations").glob("*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return rows


@pytest.fixture(scope="module")
def exhaustive(root):
    return audit(root, "exhaustive")


@pytest.fixture(scope="module")
def sequential(root):
    return audit(root, "sequential", rounds=[2, 4])


def test_without_rounds_every_caption_is_drawn_in_full(exhaustive):
    assert {row["n_generated"] for row in exhaustive} == {6}


def test_a_caption_without_a_hit_is_closed_after_four(root, sequential):
    counts = [row["n_generated"] for row in sequential]
    assert len(sequential) == 24
    assert counts.count(4) > 20  # some repeat themselves by chance and go on
    rows = drawn(root, "sequential")
    assert len(rows) == sum(counts)


def test_rounds_draw_what_the_whole_draws(root, exhaustive, sequential):
    """Seeds and pictures of a round are those of the exhaustive run."""
    whole = {row["generation_id"]: row["sha256"] for row in drawn(root, "exhaustive")}
    some = {row["generation_id"] for row in drawn(root, "sequential")}
    assert some < set(whole)
    verdicts = {row["prompt_id"]: row["verdict"] for row in exhaustive}
    assert sum(verdicts[row["prompt_id"]] != row["verdict"] for row in sequential) <= 1


def test_forwards_are_counted_and_fewer(exhaustive, sequential):
    screened = 2 * (1 + 1)  # a step of the trajectory and the late one
    assert {row["n_unet_forwards"] for row in exhaustive} == {screened + 2 * STEPS * 6}
    assert all(
        row["n_unet_forwards"] == screened + 2 * STEPS * row["n_generated"] for row in sequential
    )


def test_a_budget_is_kept_and_what_it_leaves_out_is_undecided(root):
    screen = 24 * 2 * 2
    budget = screen + 5 * 2 * (2 * STEPS)
    findings = audit(root, "budget", rounds=[2], max_forwards=budget)
    assert sum(row["n_generated"] for row in findings) == 10
    assert sum(row["n_unet_forwards"] for row in findings) <= budget
    left_out = {row["verdict"] for row in findings if not row["n_generated"]}
    assert left_out == {"undecided"}
    assert sum(not row["n_generated"] for row in findings) == 19


def test_a_calibration_gives_confidences_and_closes_by_score(root, exhaustive):
    path = root / "calibration.json"
    calibrate_audit(root / "exhaustive", 0.05).save(path)
    entry = next(iter(read_audit_calibration(path).models.values()))
    assert entry.controls == 22
    assert entry.flagged.hits <= 0.05 * 22
    findings = audit(root, "calibrated", rounds=[2, 4], verdict={"calibration": str(path)})
    decided = [row for row in findings if row["verdict"] != "undecided"]
    assert decided
    assert all(0.5 < row["confidence"] <= 1 for row in decided)
    assert all("controls flagged" in row["calibration"] for row in findings)
    fewer = sum(row["n_generated"] for row in findings)
    assert fewer < sum(row["n_generated"] for row in exhaustive)


def test_a_stricter_ratio_of_the_calibration_holds_unless_given(root, exhaustive, tmp_path):
    found = calibrate_audit(root / "exhaustive", 0.05)
    entry = next(iter(found.models.values())).model_copy(update={"max_ratio": 0.31})
    path = tmp_path / "calibration.json"
    found.model_copy(update={"models": dict.fromkeys(found.models, entry)}).save(path)
    model = {"path": str(root / "model")}
    for given, expected in ((None, 0.31), (0.6, 0.6)):
        verdict = {"calibration": str(path), "max_ratio": given}
        config = make_config({"model": model, "verdict": verdict})
        assert limits_of(Context(tmp_path, config)).max_ratio == expected


def test_another_calibration_in_the_same_file_is_seen(root, exhaustive, tmp_path):
    found = calibrate_audit(root / "exhaustive", 0.05)
    path = tmp_path / "calibration.json"
    found.save(path)
    verdict = {"calibration": str(path)}
    audit(root, "recalibrated", verdict=verdict)
    found.save(path)
    audit(root, "recalibrated", verdict=verdict)  # the same again
    entry = next(iter(found.models.values())).model_copy(update={"max_ratio": 0.31})
    found.model_copy(update={"models": dict.fromkeys(found.models, entry)}).save(path)
    with pytest.raises(FingerprintMismatch, match="calibration"):
        audit(root, "recalibrated", verdict=verdict)


def test_a_calibration_of_another_model_is_one_clear_line(root, exhaustive, tmp_path):
    path = tmp_path / "calibration.json"
    calibrate_audit(root / "exhaustive", 0.05).save(path)
    build_tiny_pipeline(tmp_path / "other", seed=1)
    other = {"path": str(tmp_path / "other")}
    config = make_config({"model": other, "verdict": {"calibration": str(path)}})
    with pytest.raises(ConfigError, match="not calibrated for this model"):
        limits_of(Context(tmp_path, config))


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"version": 2, "models": {}})])
def test_a_damaged_calibration_is_one_clear_line(text, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_audit_calibration(path)
    assert "\n" not in str(refused.value)


def test_too_few_controls_and_no_run_are_refused(root, exhaustive, tmp_path):
    with pytest.raises(MissingInput):
        calibrate_audit(tmp_path, 0.01)
    table = pq.read_table(root / "exhaustive" / "findings.parquet")
    (tmp_path / "run.json").write_bytes((root / "exhaustive" / "run.json").read_bytes())
    pq.write_table(table.slice(0, 5), tmp_path / "findings.parquet")
    with pytest.raises(ConfigError, match="control captions"):
        calibrate_audit(tmp_path, 0.01)
