"""The join of large sets: time, memory and recall against an exact scan, in one run.

    python -m tests.bench.join [--sizes 100000 250000 1000000] [--threshold 0.9] [--threads 2]

Vectors are synthetic but not arbitrary: 512 dimensions with the mean and covariance of real
descriptors (the shipped encoder's, of the shipped pictures), a tenth of them near-duplicates whose
difference is that of a real edit. The exact scan is FAISS's IndexFlatIP range search on a sample of
queries with the same number of threads, extrapolated to all. Every size runs in a process of its
own, whose largest resident set is stated; pages of the mapped file count.
"""

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.table import Table

import indexes

_DIMENSIONS = 512
_EDITED = 60
_QUERIES = 4000
_BLOCK = 50_000
_SIZES = [100_000, 250_000, 500_000, 1_000_000, 2_000_000]

Vectors = npt.NDArray[np.float32]


def real_descriptors() -> tuple[Vectors, Vectors]:
    """Descriptors (n, 512) of pictures, and differences (m, 512) between edits and originals."""
    # Here, for the process that is measured needs none of it, and torch alone takes a gigabyte.
    from pipeline.calibration.edits import EDITS
    from pipeline.config import Encoder
    from pipeline.demo.plant import PICTURES
    from pipeline.demo.shards import decode, read_shards
    from pipeline.encoders import build_encoder

    encoder = build_encoder(Encoder(kind="lite0"))
    rows = [row for row in read_shards(PICTURES).values() if row.picture is not None]
    pictures = [decode(row.picture) for row in rows if row.picture is not None]
    rng = np.random.default_rng(0)
    edited = [
        edit(pictures[i], rng, pictures[-1 - i])
        for i in range(_EDITED)
        for name, edit in EDITS.items()
        if name != "exact"
    ]
    vectors = _encoded(encoder, [*pictures, *edited])
    _, axes = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    vectors = indexes.unit((vectors @ axes[:, ::-1][:, :_DIMENSIONS]).astype(np.float32))
    originals = np.repeat(vectors[:_EDITED], len(EDITS) - 1, axis=0)
    return vectors[: len(pictures)], vectors[len(pictures) :] - originals


def _encoded(encoder: object, pictures: list[Image.Image]) -> Vectors:
    blocks = [
        encoder.encode(pictures[i : i + 32]).vectors  # type: ignore[attr-defined]
        for i in range(0, len(pictures), 32)
    ]
    return indexes.unit(np.concatenate(blocks))


def write_set(path: Path, n: int, real: Vectors, differences: Vectors) -> None:
    """n vectors in fp16, a block at a time."""
    mean = real.mean(axis=0)
    covariance = np.cov((real - mean).T) + 1e-7 * np.eye(_DIMENSIONS)
    root = np.linalg.cholesky(covariance).astype(np.float32)
    rng = np.random.default_rng(1)
    out = np.lib.format.open_memmap(path, "w+", np.float16, (n, _DIMENSIONS))
    for start in range(0, n, _BLOCK):
        size = min(_BLOCK, n - start)
        noise = rng.standard_normal((size, _DIMENSIONS), np.float32)
        block = indexes.unit(mean + noise @ root.T)
        copies = size // 10
        source = rng.integers(0, size - copies, copies)
        block[size - copies :] = (
            block[source] + differences[rng.integers(0, len(differences), copies)]
        )
        out[start : start + size] = indexes.unit(block)
    out.flush()


def measure(path: Path, threshold: float, threads: int) -> dict[str, float]:
    """Join one set and an exact sample of it."""
    vectors = np.load(path, mmap_mode="r")
    ids = np.arange(len(vectors))
    start = time.perf_counter()
    cells = indexes.build_cells(vectors, ids, threads=threads)
    built = time.perf_counter()
    pairs = indexes.cell_join(vectors, ids, cells, threshold)
    joined = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    true = indexes.sampled_pairs(vectors, ids, threshold, sample=_QUERIES)
    recall = indexes.recall_of(true, pairs)
    faiss.omp_set_num_threads(threads)
    chosen = np.random.default_rng(2).permutation(len(ids))[:_QUERIES]
    queries = indexes.unit(vectors[np.sort(chosen)])
    exact = 0.0
    for first in range(0, len(ids), 100_000):
        flat = faiss.IndexFlatIP(_DIMENSIONS)
        flat.add(indexes.unit(vectors[first : first + 100_000]))
        begun = time.perf_counter()
        flat.range_search(queries, threshold)
        exact += time.perf_counter() - begun
    return {
        "cells": len(cells),
        "build": built - start,
        "join": joined - built,
        "pairs": len(pairs),
        "peak": peak,
        "exact": exact * len(ids) / len(queries),
        "true": recall.n,
        "found": recall.hits,
        "low": recall.low,
        "high": recall.high,
    }


def main() -> None:
    """Print the table, or in a child the figures of one set as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure, given.threshold, given.threads)))
        return
    real, differences = real_descriptors()
    table = Table(
        "vectors", "cells", "build s", "join s", "exact scan s", "ratio", "recall", "memory"
    )
    times: list[tuple[int, float]] = []
    for n in given.sizes:
        found = _in_a_child(n, real, differences, given.threshold, given.threads)
        total = found["build"] + found["join"]
        interval = f"{found['low']:.4f} to {found['high']:.4f}"
        times.append((n, total))
        table.add_row(
            f"{n:,}",
            f"{found['cells']:,.0f}",
            f"{found['build']:.1f}",
            f"{found['join']:.1f}",
            f"{found['exact']:,.0f}",
            f"{found['exact'] / total:.0f}",
            f"{found['found']:.0f} of {found['true']:.0f} ({interval})",
            f"{found['peak'] / 2**30:.2f} GiB",
        )
    console = Console(width=120)
    console.print(
        f"join of n x {_DIMENSIONS} at cosine {given.threshold}, {given.threads} threads, "
        f"{platform.machine()}"
    )
    console.print(table)
    if len(times) > 1:
        logs = np.log(np.array(times))
        slope = np.polyfit(logs[:, 0], logs[:, 1], 1)[0]
        console.print(f"time grows as n^{slope:.2f} from {times[0][0]:,} to {times[-1][0]:,}")


def _in_a_child(
    n: int, real: Vectors, differences: Vectors, threshold: float, threads: int
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors.npy")
        write_set(path, n, real, differences)
        command = [sys.executable, "-m", "tests.bench.join", "--measure", str(path)]
        command += ["--threshold", str(threshold), "--threads", str(threads)]
        blas = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | blas)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert all(math.isfinite(value) for value in values.values())
    return values


if __name__ == "__main__":
    main()
