"""The benchmarks run, and fit what they say they fit."""

import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from graph_builder import make_pairs, union_find

from pipeline.cost import Job, Rates, cost
from tests.bench.cost import _solve, fitted
from tests.bench.grouping import grouping_seconds, write_grouping


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


def test_what_is_timed_is_the_grouping_of_all_pictures_over_shards(tmp_path):
    """The groups by hand: components of the rows, named by their smallest id."""
    n, rng = 25_000, np.random.default_rng(3)
    edges = [(int(a), int(b), 0.95) for a, b in rng.integers(0, n, (4000, 2))]
    ids = write_grouping(tmp_path, n, make_pairs(edges))
    assert sorted(ids) == list(range(n))
    assert grouping_seconds(tmp_path) > 0
    found = pq.read_table(tmp_path / "duplicates.parquet", columns=["image_id", "group_id"])
    rows_of = union_find(range(n), edges)
    groups: dict[int, list[int]] = {}
    for row, root in enumerate(rows_of):
        groups.setdefault(root, []).append(int(ids[row]))
    expected = {member: min(group) for group in groups.values() for member in group}
    assert dict(zip(*(column.to_pylist() for column in found.columns), strict=True)) == expected
    assert len(list((tmp_path / "images").glob("part-*.parquet"))) == 3


@pytest.mark.slow
def test_the_cost_bench_measures_fits_and_extrapolates():
    command = [sys.executable, "-m", "tests.bench.cost", "--sizes", "2000", "4000", "8000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    measured = re.findall(r"│ +(cells|join|groups) +│ +([\d.]+) +│ +([\d.]+) +│", done.stdout)
    assert [stage for stage, _, _ in measured] == ["cells", "join", "groups"] * 3
    seconds = [(float(predicted), float(taken)) for _, predicted, taken in measured]
    assert all(predicted > 0 and taken > 0 for predicted, taken in seconds[-3:])
    hours = re.search(r"hours with 100 workers +│ +([\d.,]+) +│ +([\d.,]+) +│", done.stdout)
    small, large = (float(value.replace(",", "")) for value in hours.groups())
    assert 100 * small <= large  # a hundred times the pictures


@pytest.mark.slow
def test_the_gpu_bench_runs_on_a_cpu_and_both_ways_find_the_pairs():
    command = [sys.executable, "-m", "tests.bench.gpu", "--device", "cpu", "--rows", "3000"]
    done = subprocess.run([*command, "--threads", "1", "--models"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.findall(r"ours: .*; ([\d,]+) pairs .*?(\d+) of (\d+)", done.stdout)
    assert len(found) == 2 and len(set(found)) == 1
    pairs, hits, of = (int(value.replace(",", "")) for value in found[0])
    assert pairs > 200 and hits == of > 200
