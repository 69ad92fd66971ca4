"""The whole benchmark, small: every part runs, and a second run finds them done."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_smoke_version_plants_trains_audits_and_tells(tmp_path):
    command = [sys.executable, "-m", "tests.bench.audit", "--smoke", "--work", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all: recall" in done.stdout and "copies of the group" in done.stdout
    again = subprocess.run([*command, "--only", "truth"], capture_output=True, text=True)
    assert again.returncode == 0 and "built in 0." in again.stdout
