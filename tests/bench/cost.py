"""What a billion pictures would cost, from rates measured in one run.

    python -m tests.bench.cost [--sizes 10000 50000 250000 1000000 2000000] [--threads 1]

The rates of pipeline.cost are measured here: scan and embed on the shipped pictures, cells and join
on synthetic vectors with the statistics of real descriptors (tests.bench.join), the grouping stages
on their pairs (tests.bench.grouping). Times are CPU seconds, which other programs disturb less and
which are the core's, whatever the threads. The two constants of cells and of join are fitted to the
smaller half of the sizes, and what they say of the larger ones is shown beside what was measured.
The last table extrapolates: nothing of its size has been run.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import lsq_linear

import indexes
from pipeline.cost import ONE_PART, Cost, Job, Rates, cell_macs, cost, join_macs
from pipeline.demo.plant import PICTURES
from pipeline.demo.shards import read_shards
from tests.bench.descriptors import spectrum, write_synthetic

_SIZES = [10_000, 50_000, 250_000, 1_000_000, 2_000_000]
_GOALS = (10_000_000, 1_000_000_000, 5_000_000_000)
_WORKERS = 100
_THRESHOLD = 0.9
_PICTURES = 400
_WARM = 2000


def measured(path: Path, threads: int) -> dict[str, float]:
    """Seconds of cells, join and groups of one set; in a process of its own."""
    vectors = np.load(path, mmap_mode="r")
    ids = np.arange(len(vectors))
    few = slice(0, _WARM)
    indexes.cell_join(vectors[few], ids[few], indexes.build_cells(vectors[few], ids[few]), 0.9)
    before = _peak()
    start = time.process_time()
    cells = indexes.build_cells(vectors, ids, threads=threads)
    built = time.process_time()
    pairs = indexes.cell_join(vectors, ids, cells, _THRESHOLD)
    joined = time.process_time()
    peak = _peak() - before
    return {
        "n": len(ids),
        "d": vectors.shape[1],
        "sketch": cells.sketches.shape[1],
        "cells": built - start,
        "join": joined - built,
        "groups": _grouping_seconds(len(ids), pairs),
        "pairs": len(pairs),
        "peak": peak,
    }


def _grouping_seconds(n: int, pairs: indexes.Pairs) -> float:
    # Here, for the processes that measure memory need none of it until then.
    from tests.bench.grouping import grouping_seconds, write_grouping

    none = indexes.Pairs(pairs.id_a[:0], pairs.id_b[:0], pairs.similarity[:0])
    with tempfile.TemporaryDirectory() as folder:
        write_grouping(Path(folder, "warm"), 1000, none)
        grouping_seconds(Path(folder, "warm"))
        write_grouping(Path(folder, "run"), n, pairs)
        return grouping_seconds(Path(folder, "run"))


def _peak() -> float:
    """Largest resident set so far, in bytes; getrusage's is that of a parent before `exec`, too."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
    return float(line.split()[1]) * 1024


def measured_shards() -> dict[str, float]:
    """Rows a second that scan and embed take, by one thread, through the runner."""
    from pipeline.config import make_config
    from pipeline.demo.plant import plant
    from pipeline.runner.engine import Options, run_stages
    from pipeline.runner.part import Context
    from pipeline.runner.progress import SilentProgress
    from pipeline.stages import embed, ids, scan

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plant(root, copies=(1, 2, 4), pictures_per_level=4, limit=_PICTURES)
        config = make_config({"dataset": {"shards": [str(root / "shards")]}})
        context = Context(root / "run", config)
        seconds: dict[str, float] = {}
        for stage in (scan.STAGE, ids.STAGE, embed.STAGE):
            started = time.process_time()
            summary = run_stages([stage], context, Options(), SilentProgress())
            taken = time.process_time() - started
            seconds[stage.name] = summary.rows[stage.name][1] / taken
        return {"scan_rows": seconds["scan"], "embed_rows": seconds["embed"]}


def rate_of_hashes(n: int = 20_000) -> float:
    """Pairs of 256-bit codes compared a second."""
    codes = np.random.default_rng(0).integers(0, 256, (n, 32), np.uint8)
    started = time.process_time()
    indexes.hamming_join(codes, np.arange(n), 31)
    return n * n / 2 / (time.process_time() - started)


def rate_of_products(n: int = 10_000, d: int = 512) -> float:
    """Multiply-adds a second of the join of all with all."""
    vectors = indexes.unit(np.random.default_rng(0).standard_normal((n, d)))
    started = time.process_time()
    indexes.self_join(vectors, np.arange(n), _THRESHOLD)
    return n * n * d / (time.process_time() - started)


def fitted(rows: list[dict[str, float]], rates: Rates) -> Rates:
    """Rates of cells, join and groups, by least squares over the measured sizes."""
    jobs, most = [job_of(row) for row in rows], rates.exact_macs
    cells = _solve([[cell_macs(j), j.n * j.d] for j in jobs], [r["cells"] for r in rows], most)
    join = _solve([[join_macs(j), j.n * j.probes] for j in jobs], [r["join"] for r in rows], most)
    groups = _solve([[j.n] for j in jobs], [row["groups"] for row in rows])
    return replace(
        rates,
        cell_macs=cells[0],
        cell_numbers=cells[1],
        join_macs=join[0],
        visits=join[1],
        group_rows=groups[0],
    )


def _solve(terms: list[list[float]], seconds: list[float], most: float = np.inf) -> list[float]:
    """Rates of seconds = terms / rates, the first at most `most`; infinite where not needed.

    On small sizes the linear term hides the other, which then would seem to cost nothing.
    """
    matrix = np.array(terms, float)
    scale = matrix.max(axis=0)
    least = np.zeros(len(scale))
    least[0] = scale[0] / most
    found = lsq_linear(matrix / scale, np.array(seconds), (least, np.inf)).x
    return [float(s / x) if x > 0 else float("inf") for s, x in zip(scale, found, strict=True)]


def job_of(row: dict[str, float]) -> Job:
    """The job whose cells and join were measured."""
    return Job(int(row["n"]), d=int(row["d"]), sketch=int(row["sketch"]), exact_up_to=0)


def check_table(rows: list[dict[str, float]], fitted_on: int, rates: Rates) -> Table:
    """Predicted beside measured, for every size."""
    table = Table("pictures", "", "stage", "predicted s", "measured s", "predicted/measured")
    for number, row in enumerate(rows):
        predicted = cost(job_of(row), rates).seconds
        for stage in ("cells", "join", "groups"):
            ratio = f"{predicted[stage] / row[stage]:.2f}"
            seconds = [f"{predicted[stage]:.2f}", f"{row[stage]:.2f}", ratio]
            label = "fitted" if number < fitted_on else "foretold"
            table.add_row(f"{row['n']:,.0f}", label, stage, *seconds)
        found = cost(job_of(row), rates)
        stated = (found.memory["cells"] + found.disk["embeddings"]) / 2**30  # the mapped file
        table.add_row("", "", "memory, GiB", f"{stated:.2f}", f"{row['peak'] / 2**30:.2f}", "")
    return table


def goal_table(rates: Rates, sketch: int, duplicates: float, size: float) -> Table:
    """Bytes and hours of sizes that were not run."""
    jobs = [Job(n, sketch=sketch, duplicates=duplicates, group_size=size) for n in _GOALS]
    costs = [cost(job, rates) for job in jobs]
    table = Table("", *(f"{n:,} pictures" for n in _GOALS))

    def row(label: str, shown: Callable[[Cost], str]) -> None:
        table.add_row(label, *(shown(found) for found in costs))

    row("cells", lambda c: f"{c.cells:,}")
    row("edges", lambda c: f"{c.edges:,.0f}")
    for name in ("embeddings", "pdq", "cells", "pairs"):
        row(f"disk: {name}", lambda c, name=name: _bytes(c.disk[name]))
    for name in ("driver", "cells", "join"):
        row(f"memory: {name}", lambda c, name=name: _bytes(c.memory[name]))
    for name in costs[0].seconds:
        where = ", one part" if name in ONE_PART else ""
        row(f"hours of a core: {name}{where}", lambda c, name=name: f"{c.hours()[name]:,.1f}")
    row(f"hours with {_WORKERS} workers", lambda c: f"{sum(c.hours(_WORKERS).values()):,.1f}")
    without = lambda c: sum(h for name, h in c.hours(_WORKERS).items() if name != "pdq")  # noqa: E731
    row(f"hours with {_WORKERS} workers, without pdq", lambda c: f"{without(c):,.1f}")
    return table


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _in_a_child(path: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.cost", "--measure", str(path)]
    command += ["--threads", str(threads)]
    blas = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | blas)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def main() -> None:
    """Measure, fit, check and print; or in a child the figures of one set as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--duplicates", type=float, default=0.1, help="share of near-duplicates")
    parser.add_argument("--group-size", type=float, default=3.0, help="pictures of a group")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measured(given.measure, given.threads)))
        return
    sizes = sorted(given.sizes)
    if len(sizes) < 3:
        parser.error("--sizes: three or more, two of them to fit two constants")
    pictures = [row.picture for row in read_shards(PICTURES).values() if row.picture is not None]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        real, differences = spectrum(Path(folder, "spectrum.npz"), pictures)
        for n in sizes:
            place = write_synthetic(Path(folder, str(n)), n, real, differences)
            rows.append(_in_a_child(place / "vectors.npy", given.threads))
            shutil.rmtree(place)
    fitted_on = max(2, len(rows) // 2)
    rates = replace(
        Rates(**measured_shards()), hamming_pairs=rate_of_hashes(), exact_macs=rate_of_products()
    )
    early, final = fitted(rows[:fitted_on], rates), fitted(rows, rates)
    console = Console(width=120)
    console.print(
        f"{given.threads} thread, {platform.machine()}; sketches of {rows[0]['sketch']:.0f}"
    )
    console.print(check_table(rows, fitted_on, early))
    console.print(f"rates fitted to all sizes, for pipeline.cost: {final}", highlight=False)
    console.print(goal_table(final, int(rows[0]["sketch"]), given.duplicates, given.group_size))


if __name__ == "__main__":
    main()
