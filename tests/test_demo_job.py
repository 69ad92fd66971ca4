"""The whole job on a small planted set: real shards, a model really trained, every stage.

One run is undisturbed and serial. Another has two worker processes and is killed with SIGKILL on
its way, with its workers, and started again: every file has the same bytes.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow

SMALL = {
    "demo.copies": "[1, 24]",
    "demo.pictures_per_level": "3",
    "demo.base_pictures": "60",
    "demo.steps": "60",
    "demo.truth_seeds": "2",
    "prompts.controls": "6",
    "prompts.max_groups": "5",
    "screen.seeds": "1",
    "generate.per_prompt": "3",
    "generate.steps": "4",
    "generate.prompts_per_part": "6",
    "erase.methods": (
        "[{name: esd-x, objective: esd, parameters: x, iterations: 2}, "
        "{name: retrack, objective: retrack, parameters: full, iterations: 1}, "
        "{name: uce, objective: uce}]"  # others want anchors, and here all drawings are copies
    ),
    "verdict.max_tiled_l2": "1.0",
    "verdict.max_l2": "1.0",
    "verdict.max_ratio": "5.0",
    "verify.per_prompt": "2",
    "verify.per_other": "2",
    "verify.empty_prompt": "4",
    "verify.attacks": "[{kind: embedding, iterations: 1, draws: 1}, {kind: completion, draws: 1}]",
}
OWN = {"run.json", ".lock", "digests.json", "metrics.jsonl"}  # times, paths, the number of workers


def command(out: Path, workers: int) -> list[str]:
    sets = [item for name, value in SMALL.items() for item in ("--set", f"{name}={value}")]
    base = [sys.executable, "-m", "pipeline", "demo", "--out", str(out)]
    return [*base, "--workers", str(workers), *sets]


def tree(run: Path) -> dict[str, str]:
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in OWN
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "serial"
    done = subprocess.run(command(out, 1), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done


def test_every_stage_leaves_its_table(undisturbed):
    out, _ = undisturbed
    for name in ("duplicates", "prompts", "screen", "matches", "verdicts", "findings"):
        assert pq.read_metadata(out / f"{name}.parquet").num_rows > 0, name
    for name in ("extracted", "verification", "scored", "planted"):
        assert (out / f"{name}.parquet").is_file(), name
    assert (out / "report" / "index.html").stat().st_size > 10_000
    assert (out / "erased" / "esd-x" / "model_index.json").is_file()
    methods = json.loads((out / "verification.json").read_text())["methods"]
    assert set(methods) == {"esd-x", "retrack", "uce"}
    for said in methods.values():
        assert said["verdict"] != "erased"  # nothing was there to compare attacks with
        assert said["attacks"] == ["completion-0.8", "embedding-caption"]


def test_the_planted_duplicates_are_found(undisturbed):
    out, _ = undisturbed
    pairs = json.loads((out / "score.json").read_text())["pairs"]
    assert pairs["found"] >= 0.98 * pairs["planted"]
    assert pairs["false"] <= 0.01 * pairs["planted"]


def test_the_command_ends_with_a_summary(undisturbed):
    _out, done = undisturbed
    assert "duplicates" in done.stdout and "index.html" in done.stdout.replace("\n", "")
    assert "Traceback" not in done.stderr


def test_the_same_command_again_does_nothing(undisturbed):
    out, _ = undisturbed
    before = tree(out)
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}
    again = subprocess.run(command(out, 1), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and tree(out) == before
    assert stamps == {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}


def test_a_changed_setting_is_refused_by_name(undisturbed):
    out, _ = undisturbed
    changed = [*command(out, 1), "--set", "generate.steps=5"]
    refused = subprocess.run(changed, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 1
    assert "settings.generate.steps was 4, now 5" in refused.stderr.replace("\n", " ")
    assert "Traceback" not in refused.stderr


def test_killed_and_resumed_with_workers_gives_the_same_bytes(undisturbed, tmp_path):
    out, _ = undisturbed
    other = tmp_path / "cluster"
    for wait in (12, 20):
        process = subprocess.Popen(
            command(other, 2),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(wait + random.random())
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command(other, 2), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert tree(other) == tree(out)
