"""Half of a set is one placeholder picture: time and memory of a whole deduplication.

    python -m tests.bench.placeholders [--sizes 250000 500000 1000000 2000000] [--cases digest ...]

n vectors of 512 in fp16, half of them of one placeholder, a twentieth near-duplicates of others:

    digest    copies with equal bytes, told by their SHA-256
    vector    copies with equal vectors, of which no digest is known
    encoded   copies that were encoded differently, each: vectors a little apart, all pairs near

Every size and case runs `unmemorize dedup` in a process of its own, from ingest to export, whose
largest resident set is stated; pages of mapped files count. The exponent is that of time over n,
fitted over all sizes of a case: 1 is linear, 2 is all pairs of the placeholder.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

_SIZES = [250_000, 500_000, 1_000_000, 2_000_000]
_CASES = ("digest", "vector", "encoded")
_DIMENSIONS = 512
_ROWS_A_FILE = 50_000
_SPREAD = {"digest": 0.0, "vector": 0.0, "encoded": 0.05}  # sine of the angle to the placeholder
_SHOWN = ("ingest", "index", "hubs", "cells", "pairs", "recall", "components", "survivors")
_CHILD = (
    "import resource, runpy, sys\n"
    "sys.argv = ['unmemorize', *sys.argv[1:]]\n"
    "try:\n runpy.run_module('pipeline', run_name='__main__')\n"
    "finally:\n"
    " print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)\n"
)


def write_set(folder: Path, n: int, case: str) -> None:
    """A clip-retrieval folder: rows of the placeholder and others by turns."""
    rng = np.random.default_rng(0)
    placeholder = rng.standard_normal(_DIMENSIONS) / np.sqrt(_DIMENSIONS)
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for number, start in enumerate(range(0, n, _ROWS_A_FILE)):
        size = min(_ROWS_A_FILE, n - start)
        vectors = rng.standard_normal((size, _DIMENSIONS), np.float32) / np.sqrt(_DIMENSIONS)
        vectors[-(size // 20) :] = vectors[1 : 2 * (size // 20) : 2]  # odd rows are no placeholder
        vectors[-(size // 20) :] *= 1 + 0.1 * rng.standard_normal((size // 20, _DIMENSIONS))
        copies = np.arange(start, start + size) % 2 == 0
        copies[-(size // 20) :] = False
        vectors[copies] = placeholder + _SPREAD[case] * vectors[copies]
        np.save(folder / f"img_emb/img_emb_{number}.npy", vectors.astype(np.float16))
        keys = [f"{start + i:09d}" for i in range(size)]
        columns = {"image_path": keys, "caption": [f"picture {key}" for key in keys]}
        if case == "digest":
            digests = np.where(copies, "f" * 64, [f"{int(key):064x}" for key in keys])
            columns["sha256"] = digests.tolist()
        pq.write_table(pa.table(columns), folder / f"metadata/metadata_{number}.parquet")


def measure(n: int, case: str) -> dict[str, float]:
    """Seconds of each stage and in all, the peak in bytes, pairs listed and pictures kept."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "vectors"), Path(folder, "run")
        write_set(source, n, case)
        command = [sys.executable, "-c", _CHILD, "dedup", str(source), "--out", str(out)]
        command += ["--threshold", "0.9", "--set", "pairs.exact_up_to=10000"]  # cells throughout
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found: dict[str, float] = {"all": time.perf_counter() - begun}
        lines = (out / "logs/metrics.jsonl").read_text().splitlines()
        found |= {(stage := json.loads(line))["stage"]: stage["seconds"] for line in lines}
        peaks = [line for line in done.stderr.splitlines() if line.startswith("peak ")]
        tables = out.glob("pairs/*/part-*.parquet")
        keep = pq.read_table(out / "duplicates.parquet", columns=["keep"])["keep"]
        return found | {
            "peak": float(peaks[-1].split()[1]),
            "listed": sum(pq.read_metadata(path).num_rows for path in tables),
            "kept": keep.to_numpy(zero_copy_only=False).sum(),
        }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--cases", nargs="+", choices=_CASES, default=_CASES)
    given = parser.parse_args()
    table = Table("copies are", "n", "placeholders", *_SHOWN, "groups", "all, s", "peak")
    for name in ("pairs listed", "kept"):
        table.add_column(name)
    exponents = []
    for case in given.cases:
        times = []
        for n in given.sizes:
            found = measure(n, case)
            times.append((n, found["all"]))
            stages = [f"{found.get(name, 0):.1f}" for name in (*_SHOWN, "groups", "all")]
            counts = [f"{found[name]:,.0f}" for name in ("listed", "kept")]
            peak = f"{found['peak'] / 2**30:.2f} GiB"
            table.add_row(case, f"{n:,}", f"{int(n * 0.475):,}", *stages, peak, *counts)
        logs = np.log(np.array(times))
        if len(times) > 1:
            exponents.append(f"{case} n^{np.polyfit(logs[:, 0], logs[:, 1], 1)[0]:.2f}")
    console = Console(width=180)
    console.print(f"one thread, {platform.machine()}, {_DIMENSIONS} dimensions, cosine 0.9")
    console.print(table)
    console.print(f"time grows as {', '.join(exponents)}")


if __name__ == "__main__":
    main()
