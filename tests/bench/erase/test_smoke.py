"""The whole benchmark, small: it plants, trains, erases, verifies and tells."""

import json
import subprocess
import sys

import pytest

LITTLE = ["--iterations", "3", "--per-prompt", "2", "--others", "3", "--attempts", "1"]
LITTLE += ["--attack-iterations", "2", "--unseen", "2", "--targets", "1"]


@pytest.mark.slow
def test_the_smoke_version_erases_verifies_and_tells(tmp_path):
    command = [sys.executable, "-m", "tests.bench.erase", "--smoke", "--work", str(tmp_path)]
    command += ["--methods", "esd-gt-x", *LITTLE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "dedup and retrain: no such model" in done.stdout
    folder = tmp_path / "smoke" / "erase" / "clipart-0"
    base, erased = json.loads((folder / "results.json").read_text())
    assert (base["method"], erased["method"]) == ("base", "esd-gt-x")
    assert base["trained"]["hits"] > 0 and base["cost"] is None
    assert base["by_similarity"]["n"] == base["trained"]["n"]
    assert erased["cost"]["forwards"] > 3 * 32 * 5  # the step, its target, the term that retains
    (run,) = folder.glob("verified/*/run/verification.json")
    (said,) = json.loads(run.read_text())["methods"].values()
    (attack,) = said["attack_findings"]
    assert erased["above"]["interval"] == [attack["low"], attack["high"]]
