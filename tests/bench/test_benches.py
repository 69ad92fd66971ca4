"""The benchmarks run, and fit what they say they fit."""

import re
import subprocess
import sys

import numpy as np
import pytest

from pipeline.cost import Job, Rates, cost
from tests.bench.cost import _solve, fitted


def test_rates_are_found_again_from_the_times_that_they_give():
    true = Rates(exact_macs=9e10)
    rows = []
    for n in (50_000, 200_000, 800_000):
        job = Job(n, exact_up_to=0)
        rows.append({"n": n, "d": job.d, "sketch": job.sketch, **cost(job, true).seconds})
    found = fitted(rows, Rates(exact_macs=9e10))
    for name in ("cell_macs", "cell_numbers", "join_macs", "visits", "group_rows"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=1e-4)


def test_no_rate_is_faster_than_a_bare_product():
    linear = [[1.0, 1.0], [30.0, 10.0]]
    rates = _solve(linear, [1.0, 10.0], most=100.0)
    assert rates[0] == pytest.approx(100.0) and np.isfinite(rates[1])


@pytest.mark.slow
def test_the_gpu_bench_runs_on_a_cpu_and_both_ways_find_the_pairs():
    command = [sys.executable, "-m", "tests.bench.gpu", "--device", "cpu", "--rows", "3000"]
    done = subprocess.run([*command, "--threads", "1", "--models"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.findall(r"ours: .*; ([\d,]+) pairs .*?(\d+) of (\d+)", done.stdout)
    assert len(found) == 2 and len(set(found)) == 1
    pairs, hits, of = (int(value.replace(",", "")) for value in found[0])
    assert pairs > 200 and hits == of > 200
