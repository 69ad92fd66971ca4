import json
from pathlib import Path

import pytest
from synthetic_run import COPIES, DRAWS, METHODS, SyntheticRun

from pipeline.calibration.audit_record import AuditCalibration
from pipeline.config import make_config
from pipeline.errors import ShardCorrupt
from pipeline.io import schemas
from pipeline.io.runjson import write_run
from pipeline.io.tables import write_rows
from pipeline.report.collect import as_json, collect
from pipeline.report.facts import Rate
from pipeline.report.text import short_hash
from pipeline.runner.part import Context


def test_counts_of_the_training_set(tmp_path: Path) -> None:
    facts = collect(SyntheticRun(tmp_path / "run").everything().context)
    assert facts.images is not None
    assert (facts.images.accepted, facts.images.rows) == (sum(COPIES), sum(COPIES) + 2)
    reasons = {(r.stage, r.reason): r.rows for r in facts.images.rejected}
    assert reasons == {("scan", "truncated"): 1, ("scan", "bad_key"): 1}
    groups = facts.duplicates
    assert groups is not None
    assert (groups.groups, groups.images_in_groups, groups.largest) == (4, 2 + 4 + 16 + 64, 64)
    assert groups.dropped == 1 + 3 + 15 + 63
    assert groups.kept == len(COPIES)
    assert groups.sizes == (("2", 1), ("3-4", 1), ("9-16", 1), ("33-64", 1))
    assert groups.pairs_by_encoder == {"lite0": 5}
    assert sum(groups.dropped_by_reason.values()) == groups.dropped
    assert [group.size for group in groups.shown] == [64, 16, 4, 2]
    assert groups.shown[0].members[0].keep


def test_what_is_known_of_the_search_and_the_groups(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run").everything()
    values = {"encoder": "lite0", "join": "cells", "pictures_sampled": 500}
    values |= {"pairs_true": 200, "pairs_found": 199}
    (run.run / "recall").mkdir()
    (run.run / "recall/lite0.json").write_text(json.dumps(values))
    fields = {"group_size": 4, "n_captions": 2, "weakest_link": 0.9, "diameter": 2}
    facts = [fields | {"group_id": i, "n_kept": 1 + i, "placeholder": i == 0} for i in range(3)]
    write_rows(run.run / "groups.parquet", facts, schemas.GROUPS)
    groups = collect(run.context).duplicates
    assert groups is not None
    (recall,) = groups.recalls
    assert (recall.encoder, recall.join, recall.found.rate) == ("lite0", "cells", 0.995)
    assert (groups.chained, groups.placeholders) == (2, 1)


def test_counts_of_the_audit(tmp_path: Path) -> None:
    facts = collect(SyntheticRun(tmp_path / "run").everything().context)
    assert facts.audit is not None and facts.extracted is not None
    assert facts.audit.verdicts == {"verbatim": 2, "undecided": 1, "none": 5}
    assert facts.audit.generations == DRAWS * len(COPIES)
    assert (facts.audit.controls, facts.audit.flagged_controls.hits) == (4, 0)
    assert facts.audit.unet_forwards == 200 * len(COPIES)
    assert [f.n_duplicates for f in facts.audit.findings] == [64, 16, 4]
    assert (facts.extracted.pictures, facts.extracted.images) == (3, 4)
    assert facts.extracted.generations == 4 + 4 + 1
    best = facts.audit.findings[0]
    assert best.image_id is not None and best.tiled_l2 == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("calibrated", "given", "shown"),
    [(True, None, 0.4), (True, 0.6, 0.6), (False, 0.6, 0.6), (False, None, None)],
)
def test_the_thresholds_shown_are_the_calibrated_ones(tmp_path, calibrated, given, shown):
    path = tmp_path / "calibration.json"
    verdict = {"calibration": str(path), "max_ratio": given}
    run = SyntheticRun(tmp_path / "run", verdict=verdict).everything()
    if calibrated:
        rate = {"hits": 0, "n": 20, "ci_low": 0.0, "ci_high": 0.2}
        prior = {"weights": (0.5, 0.3, 0.2), "alpha": (1, 1, 1), "beta": (9, 3, 1)}
        entry = {"model": "m", "target": 0.05, "controls": 20, "flagged": rate, "max_ratio": 0.4}
        entry["prior"] = prior | {"slope": 1.0, "intercept": 0.0}
        AuditCalibration.model_validate({"models": {"cd" * 32: entry}}).save(path)
    audit = collect(run.context).audit
    assert audit is not None
    assert audit.thresholds.get("max_ratio") == shown
    assert audit.thresholds["max_l2"] == 0.15


def test_curve_pools_drawings_by_copies_with_wilsons_interval(tmp_path: Path) -> None:
    facts = collect(SyntheticRun(tmp_path / "run").everything().context)
    audit = next(series for series in facts.curve if series.name == "audit")
    found = {p.copies: (p.captions, p.drawings.hits, p.drawings.n) for p in audit.points}
    assert found == {
        "1": (4, 0, 16),
        "2": (1, 0, 4),
        "3-4": (1, 1, 4),
        "9-16": (1, 4, 4),
        "33-64": (1, 4, 4),
    }
    # Wilson 1927 for 1 of 4 at z = 1.959964: (0.25 + 0.4802 +- 0.6492) / 1.9604
    point = next(p for p in audit.points if p.copies == "3-4")
    assert point.drawings.ci_low == pytest.approx(0.0456, abs=1e-4)
    assert point.drawings.ci_high == pytest.approx(0.6994, abs=1e-4)


def test_curves_after_erasure_hold_the_erased_captions_and_the_controls(tmp_path: Path) -> None:
    facts = collect(SyntheticRun(tmp_path / "run").everything().context)
    after = {s.name: {p.copies: p.drawings.hits for p in s.points} for s in facts.curve}
    assert after["esd-x"] == {"1": 0, "9-16": 1, "33-64": 1}
    assert after["esd-gt"] == {"1": 0, "9-16": 0, "33-64": 0}


def test_methods_have_their_verdict_and_their_arms(tmp_path: Path) -> None:
    facts = collect(SyntheticRun(tmp_path / "run").everything().context)
    assert facts.erasure is not None
    said = {m.name: (m.verdict, m.damaged) for m in facts.erasure.methods}
    assert said == {"esd-gt": ("suppressed", True), "esd-x": ("failed", False)}
    arms = {a.arm: (a.before.hits, a.after.hits, a.after.n) for a in facts.erasure.methods[1].arms}
    assert arms == {
        "trained": (4, 1, 4),
        "held_out": (4, 1, 4),
        "kept": (4, 4, 4),
        "control": (0, 0, 8),
    }
    assert [a.arm for a in facts.erasure.methods[0].arms] == list(arms)


def test_comparisons_start_with_the_model_before(tmp_path: Path) -> None:
    facts = collect(SyntheticRun(tmp_path / "run").everything().context)
    assert facts.erasure is not None
    for comparison in facts.erasure.comparisons:
        assert [r.method for r in comparison.redraws] == ["base", *sorted(METHODS)]
        wanted = "none" if comparison.arm == "control" else "verbatim"
        assert comparison.redraws[0].verdict == wanted


def test_caps_say_how_many_there_are(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run", report__max_findings=1, report__max_groups=2).everything()
    facts = collect(run.context)
    assert facts.audit is not None and facts.duplicates is not None
    assert (len(facts.audit.findings), facts.audit.n_findings) == (1, 3)
    assert (len(facts.duplicates.shown), facts.duplicates.groups) == (2, 4)


def test_a_run_of_one_kind_says_what_was_not_run(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run")
    run.dataset()
    facts = collect(run.context)
    assert facts.duplicates is not None and facts.audit is None and facts.erasure is None
    assert any("No model was audited" in sentence for sentence in facts.not_run)
    empty = Context(tmp_path / "empty", make_config({}))
    write_run(empty.run, empty.config)
    assert len(collect(empty).not_run) == 4


def test_tables_of_earlier_runs_are_found_and_named(tmp_path: Path) -> None:
    first = SyntheticRun(tmp_path / "first")
    first.dataset()
    first.audit()
    later = tmp_path / "later"
    config = make_config({"train": str(first.run), "findings": str(first.run)})
    write_run(later, config)
    facts = collect(Context(later, config))
    assert facts.audit is not None and facts.duplicates is not None
    assert "findings:findings.parquet" in facts.audit.sources
    assert "train:duplicates.parquet" in facts.duplicates.sources
    assert set(facts.upstream) == {"findings", "train"}


def test_limits_follow_from_what_was_run(tmp_path: Path) -> None:
    facts = collect(SyntheticRun(tmp_path / "run").everything().context)
    text = " ".join(facts.limits)
    for words in ("not calibrated", "No attack was run", "No model trained without", "53%"):
        assert words in text  # 1 - 0.05^(1/4) = 0.527: the exact bound for none of 4


def test_json_has_the_numbers_and_no_captions_when_redacted(tmp_path: Path) -> None:
    captions = [f"secret caption {i}" for i in range(len(COPIES))]
    run = SyntheticRun(tmp_path / "run", captions, report__redact=True).everything()
    values = as_json(collect(run.context))
    text = json.dumps(values, allow_nan=False)
    assert "secret" not in text
    assert values["audit"]["findings"][0]["caption"] == short_hash(captions[-1])
    assert values["curve"][0]["points"][0]["drawings"]["n"] == 16


def test_a_rate_of_none_is_unknown() -> None:
    assert Rate.of(0, 0) == Rate(0, 0, None, 0.0, 1.0)


def test_damaged_json_is_named(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run").everything()
    (run.run / "score.json").write_text("{")
    with pytest.raises(ShardCorrupt, match=r"score\.json: not JSON"):
        collect(run.context)


def test_captions_of_groups(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run")
    assert collect(run.context).captions is None
    run.dataset()
    ids = [run.group[number] for number in (5, 6, 7)]
    counts = zip(ids, (1, 2, 9), (0.0, 0.7, 0.1), strict=True)
    groups = [
        {"group_id": g, "group_size": 9, "n_captions": n, "caption_diversity": d}
        for g, n, d in counts
    ]
    write_rows(run.run / "caption_groups.parquet", groups, schemas.CAPTION_GROUPS)
    row = {"image_id": 1, "caption": "x", "source_image_id": 2, "n": 1}
    write_rows(run.run / "export/captions.parquet", [row] * 4, schemas.ALTERNATIVES)
    found = collect(run.context).captions
    assert found is not None
    assert (found.groups, found.several, found.kept_alternatives) == (3, 2, 4)
    assert [group.group_id for group in found.shown] == ids[1:]  # the most different first
    assert found.shown[0].examples == (run.captions[6],)
    assert "examples" not in json.dumps(as_json(collect(run.context))["captions"])
    for group in groups:
        group["caption_diversity"] = None
    write_rows(run.run / "caption_groups.parquet", groups, schemas.CAPTION_GROUPS)
    found = collect(Context(run.run, make_config({"report": {"redact": True}}))).captions
    assert found is not None and not found.encoded
    assert [group.captions for group in found.shown] == [9, 2]
    assert found.shown[1].examples == (short_hash(run.captions[6]),)
