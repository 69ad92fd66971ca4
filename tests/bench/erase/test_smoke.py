"""The whole benchmark, small: it erases, verifies and tells, and a second run finds it done."""

import json
import subprocess
import sys
import time

import pytest

LITTLE = ["--iterations", "3", "--per-prompt", "2", "--others", "3", "--attempts", "1"]
LITTLE += ["--attack-iterations", "2", "--unseen", "2", "--targets", "1"]


@pytest.mark.slow
def test_the_smoke_version_erases_verifies_and_tells(tmp_path):
    command = [sys.executable, "-m", "tests.bench.erase", "--smoke", "--work", str(tmp_path)]
    command += ["--methods", "esd-gt-x", "uce", *LITTLE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "smoke" / "erase" / "clipart-0"
    rows = {row["method"]: row for row in json.loads((folder / "results.json").read_text())}
    assert list(rows) == ["base", "esd-gt-x", "uce"]
    assert rows["base"]["trained"]["hits"] > 0 and rows["base"]["cost"] is None
    assert rows["esd-gt-x"]["cost"]["forwards"] > rows["uce"]["cost"]["forwards"] == 0
    (run,) = folder.glob("verified/*/run/verification.json")
    said = list(json.loads(run.read_text())["methods"].values())
    (attack,) = said[0]["attack_findings"]
    assert rows["esd-gt-x"]["above"]["interval"] == [attack["low"], attack["high"]]
    start = time.perf_counter()
    again = subprocess.run(command, capture_output=True, text=True, timeout=560)
    assert again.returncode == 0 and "dedup and retrain: no such model" in again.stdout
    assert time.perf_counter() - start < 120
    assert json.loads((folder / "results.json").read_text()) == list(rows.values())
