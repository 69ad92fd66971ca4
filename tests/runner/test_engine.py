"""Run, resume, refuse, rebuild: the engine with the serial executor."""

import dataclasses
import fcntl
import json
import os
import time

import pytest
from toy_stages import (
    COUNT,
    STAGES,
    SUM,
    TEXTS,
    TOLERANT,
    execute,
    receipt_of,
    stamps,
    tree,
    tries_of,
    write_texts,
)

from pipeline.errors import FingerprintMismatch, MissingInput, OutputExists, PartFailed, UsageError
from pipeline.runner.engine import NOT_DOWNLOADED, Options, Summary
from pipeline.runner.part import Outcome, Part, Stage
from pipeline.runner.progress import SilentProgress


@pytest.fixture
def run(tmp_path):
    return write_texts(tmp_path, TEXTS)


def changed(before, after):
    return {name for name in before if before[name] != after.get(name)}


def test_a_run_writes_outputs_and_receipts(run):
    summary = execute(run)
    assert json.loads((run / "total.json").read_text()) == 7
    receipts = {f"receipts/{name}.json" for name in ("count/a", "count/b", "count/c", "sum/all")}
    assert {name for name in tree(run) if name.startswith("receipts/")} == receipts
    assert summary.rows == {"count": (4, 4), "sum": (3, 3)}
    assert summary.exit_code(0.05) == 0


def test_a_receipt_holds_what_its_output_depends_on(run):
    execute(run)
    text = (run.parent / "texts" / "a.txt").resolve()
    fields = receipt_of(run, "count", "a")["fields"]
    assert set(fields) == {"version", "threads_per_part", "settings", "params", "inputs"}
    assert fields["version"] == 1
    assert fields["threads_per_part"] == 1
    assert fields["params"] == {"unit": "word"}
    assert set(fields["settings"]) == {"scan", "seed"}
    # sha256sum of "one two three\n"
    sha256 = "ef5b05a961b4c934b17999593e4b7253614d6c99d26d6e50b843e546d79e57e5"
    assert fields["inputs"] == {str(text): sha256}
    assert set(receipt_of(run, "count", "a")["outputs"]) == {"counts/a.json", "words/a"}


def test_a_second_run_touches_nothing(run):
    execute(run)
    before = stamps(run)
    summary = execute(run)
    assert stamps(run) == before
    assert summary.rows == {"count": (4, 4), "sum": (3, 3)}  # counted from receipts


def test_the_metrics_log_grows_only_where_parts_ran(run):
    execute(run)
    execute(run)
    lines = (run / "logs" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == ["count", "sum"]


def reparametrised(context):
    return [dataclasses.replace(part, params={"unit": "letter"}) for part in COUNT.plan(context)]


CHANGES = [
    ({"scan__max_caption_chars": 5}, COUNT, "settings.scan.max_caption_chars was 4096, now 5"),
    ({"seed": 9}, COUNT, "settings.seed was 0, now 9"),
    ({"runner__threads_per_part": 2}, COUNT, "threads_per_part was 1, now 2"),
    ({}, dataclasses.replace(COUNT, version=2), "version was 1, now 2"),
    ({}, dataclasses.replace(COUNT, plan=reparametrised), 'params.unit was "word", now "letter"'),
]


@pytest.mark.parametrize(("overrides", "stage", "named"), CHANGES)
def test_a_changed_field_is_refused_by_name(run, overrides, stage, named):
    execute(run)
    before = stamps(run)
    with pytest.raises(FingerprintMismatch) as refused:
        execute(run, (stage, SUM), **overrides)
    assert f"count/a: {named}; pass --rebuild" in str(refused.value)
    assert stamps(run) == before
    execute(run, (stage, SUM), options=Options(rebuild=True), **overrides)
    now = stamps(run)
    assert {"counts/a.json", "words/a/drawn.txt", "receipts/count/a.json"} <= changed(before, now)
    execute(run, (stage, SUM), **overrides)  # what was rebuilt is what is wanted now
    assert stamps(run) == now


def test_changed_content_of_an_input_is_refused_by_name(run):
    execute(run)
    (run.parent / "texts" / "b.txt").write_text("eight\n")
    with pytest.raises(FingerprintMismatch, match=r"count/b: inputs\./.*/texts/b\.txt was "):
        execute(run)
    execute(run, options=Options(rebuild=True))
    assert json.loads((run / "total.json").read_text()) == 5


def test_settings_of_other_stages_do_not_matter(run):
    execute(run)
    before = stamps(run)
    execute(run, runner__attempts=2, runner__max_rejected=0.5, groups__quality="bytes")
    assert stamps(run) == before


def test_rebuild_from_a_stage_refuses_changes_before_it(run):
    execute(run)
    with pytest.raises(FingerprintMismatch, match="count/a"):
        execute(run, options=Options(rebuild_from="sum"), seed=3)
    execute(run, options=Options(rebuild_from="count"), seed=3)
    assert receipt_of(run, "sum", "all")["fields"]["settings"]["seed"] == 3


def test_a_deleted_output_is_made_again(run):
    execute(run)
    before, contents = stamps(run), tree(run)
    (run / "counts" / "b.json").unlink()
    progress = SilentProgress()
    execute(run, progress=progress)
    assert tree(run) == contents
    redone = {"counts/b.json", "words/b/first.txt", "words/b/drawn.txt", "receipts/count/b.json"}
    assert changed(before, stamps(run)) == redone  # the sum's input came back as it was
    assert progress.notes == ["count/b: an output is gone or changed; redone"]


@pytest.mark.parametrize("name", ["counts/b.json", "words/b/drawn.txt", "total.json"])
def test_a_tampered_output_is_made_again(run, name):
    execute(run)
    contents = tree(run)
    (run / name).write_text("tampered")
    execute(run)
    assert tree(run) == contents


def test_a_file_added_to_an_output_folder_is_noticed(run):
    execute(run)
    contents = tree(run)
    (run / "words" / "b" / "more.txt").write_text("tampered")
    execute(run)
    assert tree(run) == contents


def test_what_depends_on_a_changed_earlier_output_is_redone_without_asking(run):
    execute(run)
    (run.parent / "texts" / "b.txt").write_text("eight\n")
    execute(run, (COUNT,), options=Options(rebuild=True))
    progress = SilentProgress()
    execute(run, (SUM,), progress=progress)  # only the run's own output changed: no refusal
    assert json.loads((run / "total.json").read_text()) == 5
    assert progress.notes[0].startswith("sum/all: inputs.counts/b.json was ")


def test_a_tampered_file_with_the_old_times_is_found_by_verify_inputs(run):
    execute(run)
    execute(run)  # the outputs' digests are remembered now
    contents = tree(run)
    path = run / "counts" / "b.json"
    stat = path.stat()
    path.write_text(path.read_text().replace("3", "9"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    execute(run)
    assert tree(run) != contents  # a size and a time are not looked behind
    execute(run, options=Options(verify_inputs=True))
    assert tree(run) == contents


def test_verify_inputs_looks_behind_an_external_input_with_the_old_times(run):
    execute(run)
    path = run.parent / "texts" / "b.txt"
    stat = path.stat()
    path.write_text(path.read_text().replace("four", "FOUR"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    execute(run)
    with pytest.raises(FingerprintMismatch, match=r"b\.txt"):
        execute(run, options=Options(verify_inputs=True))


def test_orphans_of_an_earlier_plan_go_with_their_outputs(run):
    execute(run)
    (run.parent / "texts" / "c.txt").unlink()
    execute(run)
    assert not [name for name in tree(run) if name.endswith(("/c.json", "c/first.txt"))]
    assert not (run / "words" / "c").exists()
    assert json.loads((run / "total.json").read_text()) == 6


def test_orphans_stay_where_the_run_is_refused(run):
    execute(run)
    before = stamps(run)
    (run.parent / "texts" / "c.txt").unlink()
    with pytest.raises(FingerprintMismatch):
        execute(run, seed=1)
    assert stamps(run) == before


def test_an_orphan_takes_no_output_of_a_part_that_stays(run):
    execute(run)
    before = stamps(run)
    receipt = receipt_of(run, "count", "a")
    (run / "receipts" / "count" / "old.json").write_text(json.dumps({**receipt, "part": "old"}))
    execute(run)
    assert stamps(run) == before


@pytest.mark.parametrize("how", ["../../victim", "absolute", "link", "."])
def test_no_receipt_removes_a_file_outside_the_run(tmp_path, how):
    run = write_texts(tmp_path / "here", TEXTS)
    execute(run)
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "precious"
    victim.write_text("kept")
    (run / "link").symlink_to(outside)
    relative = f"../../{outside.name}/precious"
    output = {"../../victim": relative, "absolute": str(victim), "link": "link/precious"}
    hostile = receipt_of(run, "count", "c") | {"outputs": {output.get(how, how): "0" * 64}}
    for part in ("c", "orphan"):  # one of the plan, one of an earlier plan
        (run / "receipts" / "count" / f"{part}.json").write_text(json.dumps(hostile))
    execute(run)
    assert victim.read_text() == "kept"
    assert json.loads((run / "total.json").read_text()) == 7


def test_every_row_is_accounted_for(run):
    summary = execute(run, scan__max_caption_chars=5)
    assert summary.rows["count"] == (4, 2)  # "six" and "seven" are short
    assert summary.rejected["count"] == {"long": 2}
    with pytest.raises(ValueError, match="3 rows in, 1 out and 1 rejected: 1 unaccounted for"):
        Outcome((), rows_in=3, rows_out=1, rejected={"long": 1})


def test_a_part_that_loses_rows_fails(tmp_path):
    run = write_texts(tmp_path, {"x": "!uncounted"})
    with pytest.raises(PartFailed):
        execute(run, runner__attempts=1)
    failed = json.loads((run / "receipts" / "count" / "x.failed.json").read_text())
    assert "1 unaccounted for" in failed["error"]


def test_a_poison_part_ends_a_stage_after_its_other_parts(tmp_path):
    run = write_texts(tmp_path, TEXTS | {"b": "!raise"})
    progress = SilentProgress()
    with pytest.raises(PartFailed, match="count/b failed") as failed:
        execute(run, progress=progress, runner__attempts=2)
    assert failed.value.exit_code == 3
    assert tries_of(run, "b") == 2
    assert {"counts/a.json", "counts/c.json"} <= set(tree(run))
    assert "total.json" not in tree(run)
    record = json.loads((run / "receipts" / "count" / "b.failed.json").read_text())
    assert record["error"] == "RuntimeError: poison in b.txt"
    assert record["attempts"] == 2
    assert "Traceback" in record["log"]
    assert progress.notes == ["count/b failed: RuntimeError: poison in b.txt"]


def test_a_tolerant_stage_goes_on_and_a_resume_clears_the_failure(tmp_path):
    run = write_texts(tmp_path, TEXTS | {"b": "!raise"})
    summary = execute(run, TOLERANT, runner__attempts=3)
    assert tries_of(run, "b") == 3
    assert summary.failed == ["count/b"]
    assert summary.exit_code(0.05) == 3
    assert json.loads((run / "total.json").read_text()) == 4
    (run.parent / "texts" / "b.txt").write_text(TEXTS["b"])
    (run.parent / "texts" / "b.tries").unlink()
    summary = execute(run, TOLERANT)
    assert summary.exit_code(0.05) == 0
    reference = write_texts(tmp_path / "again", TEXTS)
    execute(reference, TOLERANT)
    inputs_differ_in_their_paths = {"receipts/count/a.json", "receipts/count/b.json"}
    inputs_differ_in_their_paths.add("receipts/count/c.json")
    same = {n: b for n, b in tree(run).items() if n not in inputs_differ_in_their_paths}
    assert same.items() <= tree(reference).items()
    assert set(tree(run)) == set(tree(reference))


def test_a_part_that_fails_once_is_tried_again(tmp_path):
    run = write_texts(tmp_path, TEXTS | {"b": "!raise-once now"})
    assert execute(run).failed == []
    assert tries_of(run, "b") == 2


def test_what_the_input_makes_impossible_is_tried_once(tmp_path):
    run = write_texts(tmp_path, TEXTS | {"b": "!refuse"})
    assert execute(run, TOLERANT).failed == ["count/b"]
    assert tries_of(run, "b") == 1


def test_a_part_that_fails_when_redone_leaves_no_stale_output(run):
    execute(run, TOLERANT)
    (run.parent / "texts" / "b.txt").write_text("!raise")
    execute(run, TOLERANT, options=Options(rebuild=True), runner__attempts=1)
    assert not [n for n in tree(run) if n.startswith(("counts/b", "words/b"))]
    assert json.loads((run / "total.json").read_text()) == 4


DAMAGE = [
    b"",
    b"{",
    b"\xff\xfe",
    b"null",
    b"[1, 2]",
    b'"receipt"',
    b"{}",
    b"[" * 100_000,
    b'{"stage": "count"}',
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_receipt_is_made_again(run, damage):
    execute(run)
    contents = tree(run)
    (run / "receipts" / "count" / "b.json").write_bytes(damage)
    execute(run)
    assert tree(run) == contents


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("outputs", None),
        ("outputs", ["counts/b.json"]),
        ("outputs", {"counts/b.json": 3}),
        ("rows_in", "many"),
        ("rejected", ["long"]),
        ("notes", 5),
        ("fields", None),
    ],
)
def test_a_receipt_of_wrong_types_is_made_again(run, field, value):
    execute(run)
    contents = tree(run)
    receipt = receipt_of(run, "count", "b") | {field: value}
    (run / "receipts" / "count" / "b.json").write_text(json.dumps(receipt))
    execute(run)
    assert tree(run) == contents


def test_a_cut_digest_cache_is_a_cache_miss(run):
    execute(run)
    contents = tree(run)
    cache = run / "receipts" / "digests.json"
    cache.write_bytes(cache.read_bytes()[:20])
    execute(run)
    assert tree(run) == contents


def test_leftovers_of_a_killed_writer_are_swept(run):
    (run / "counts" / ".tmp-1-folder").mkdir(parents=True)
    (run / "counts" / ".tmp-1-folder" / "half").write_text("half")
    (run / ".tmp-2-file").write_text("half")
    execute(run)
    tree(run)  # refuses leftovers


def test_two_commands_in_one_folder_are_refused(run):
    execute(run)
    with (run / ".lock").open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(OutputExists, match="another command is running"):
            execute(run)
    execute(run)


def test_two_parts_of_one_name_are_refused(run):
    twice = Stage("twice", 1, (), lambda context: [Part("x"), Part("x")], COUNT.run)
    with pytest.raises(UsageError, match="twice: two parts are named 'x'"):
        execute(run, (twice,))


def test_an_input_that_nobody_wrote_is_named(run):
    lost = Stage("lost", 1, (), lambda context: [Part("x", ("nowhere.json",))], COUNT.run)
    with pytest.raises(MissingInput, match=r"nowhere\.json: no such file"):
        execute(run, (lost,))


def test_the_order_of_the_inputs_does_not_matter(run):
    execute(run)
    before = stamps(run)

    def backwards(context):
        return [dataclasses.replace(p, inputs=p.inputs[::-1]) for p in SUM.plan(context)][::-1]

    execute(run, (COUNT, dataclasses.replace(SUM, plan=backwards)))
    assert stamps(run) == before


def test_parts_draw_the_same_numbers_whatever_ran_before_them(run, tmp_path):
    execute(run)
    drawn = (run / "words" / "c" / "drawn.txt").read_bytes()
    alone = write_texts(tmp_path / "alone", {"c": TEXTS["c"]})
    execute(alone)
    assert (alone / "words" / "c" / "drawn.txt").read_bytes() == drawn
    assert len({(run / "words" / n / "drawn.txt").read_bytes() for n in TEXTS}) == len(TEXTS)


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        (Summary(rows={"s": (100, 95)}, rejected={"s": {"bad": 5}}), 0),
        (Summary(rows={"s": (100, 94)}, rejected={"s": {"bad": 6}}), 2),
        # 100 rows, 90 of them never downloaded: 1 of the other 10 is more than a twentieth
        (Summary(rows={"s": (100, 9)}, rejected={"s": {NOT_DOWNLOADED: 90, "bad": 1}}), 2),
        (Summary(rows={"s": (100, 10)}, rejected={"s": {NOT_DOWNLOADED: 90}}), 0),
        (Summary(rows={"s": (0, 0)}, rejected={"s": {}}), 0),
        (Summary(failed=["s/x"], rows={"s": (9, 1)}, rejected={"s": {"bad": 8}}), 3),
        (Summary(failed=["s/x"], interrupted=True), 130),
        (Summary(interrupted=True, out_of_time=True), 3),
    ],
)
def test_exit_codes(summary, code):
    assert summary.exit_code(0.05) == code


def test_out_of_time_no_part_begins_and_the_next_call_goes_on(run, monkeypatch):
    done = []

    def counted(part, context):
        done.append(part.name)
        return COUNT.run(part, context)

    monkeypatch.setattr(Options, "is_late", lambda self: len(done) == 2)
    stages = (dataclasses.replace(COUNT, run=counted), SUM)
    summary = execute(run, stages)
    assert (done, summary.out_of_time, summary.exit_code(0.05)) == (["a", "b"], True, 3)
    assert not (run / "total.json").exists()
    monkeypatch.undo()
    assert execute(run, stages).exit_code(0.05) == 0
    assert done == ["a", "b", "c"] and json.loads((run / "total.json").read_text()) == 7


def test_time_is_read_off_the_monotonic_clock():
    assert not Options().is_late()
    assert Options(stop_at=time.monotonic() - 1).is_late()
    assert not Options(stop_at=time.monotonic() + 1000).is_late()


def test_stages_end_in_order_and_each_is_told_once(run):
    class Told(SilentProgress):
        def __init__(self):
            super().__init__()
            self.events = []

        def start(self, stage, parts, done):
            self.events.append(("start", stage, parts, done))

        def advance(self, part, *, failed):
            self.events.append(("advance", part, failed))

        def finish(self, stage, rows, rejected, seconds):
            self.events.append(("finish", stage, rows))

    progress = Told()
    execute(run, STAGES, progress=progress)
    assert progress.events == [
        ("start", "count", 3, 0),
        ("advance", "a", False),
        ("advance", "b", False),
        ("advance", "c", False),
        ("finish", "count", (4, 4)),
        ("start", "sum", 1, 0),
        ("advance", "all", False),
        ("finish", "sum", (3, 3)),
    ]
