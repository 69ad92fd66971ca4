"""The join of large sets: time, memory and recall against an exact scan, in one run.

    python -m tests.bench.join [--sizes 100000 250000 1000000] [--crops 100000] [--photos PLACE]

Sets: descriptors of real crops of pictures (cached in WORK), and synthetic ones with the mean and
covariance of real descriptors, a tenth of them near-duplicates whose difference is that of a real
edit. The encoder and the threshold are the default's unless told otherwise.

Each join is a process of its own; memory is the most that its processes held together, pages of the
mapped file included. A second process measures recall twice: over all pairs of a random sample of
ids by an exact scan, as many as --scan inner products allow; and over the planted pairs that are
near enough, all of them. The exact scan is FAISS's IndexFlatIP range search of some queries with
the same number of threads, extrapolated to all. --whole also runs the `dedup` command on vectors.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

import indexes
from indexes.metrics import near_enough, score_rows
from tests.bench.peers import WORK
from tests.bench.processes import Finished, high_water, watch

_QUERIES = 4000
_SIZES = [100_000, 250_000, 500_000, 1_000_000, 2_000_000]
_FITTED_FROM = 250_000


def measure_join(folder: Path, threshold: float, threads: int) -> dict[str, float]:
    """Join one set and leave its pairs beside it."""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    ids = np.arange(len(vectors))
    start = _clocks()
    cells = indexes.build_cells(vectors, ids, threads=threads)
    built = _clocks()
    pairs = indexes.cell_join(vectors, ids, cells, threshold)
    joined = _clocks()
    peak = high_water()
    np.savez(folder / "pairs.npz", id_a=pairs.id_a, id_b=pairs.id_b, similarity=pairs.similarity)
    (build, build_cpu), (join, join_cpu) = built - start, joined - built
    times = {"build_s": build, "join_s": join, "cpu_s": build_cpu + join_cpu}
    return times | {"cells": len(cells), "pairs": len(pairs), "peak_bytes": peak}


def _clocks() -> np.ndarray:
    """Seconds on the wall and of all cores."""
    return np.array([time.perf_counter(), time.process_time()])


def measure_recall(folder: Path, threshold: float, threads: int, scan: float) -> dict[str, Any]:
    """The exact scan, and which of the true pairs are among those found."""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    ids = np.arange(len(vectors))
    with np.load(folder / "pairs.npz", allow_pickle=False) as stored:
        pairs = indexes.Pairs(*(stored[name] for name in ("id_a", "id_b", "similarity")))
    faiss.omp_set_num_threads(threads)
    sample = min(len(ids), max(_QUERIES, int(scan / len(ids))))
    true = indexes.sampled_pairs(vectors, ids, threshold, sample=sample)
    a, b = np.load(folder / "planted.npy").T
    similarity = score_rows("cosine", vectors, vectors, a, b)
    near = near_enough("cosine", similarity, threshold)
    planted = indexes.Pairs(a[near], b[near], similarity[near])
    figures = {"exact_s": _exact_scan(vectors, threshold)}
    for name, wanted in (("scanned", true), ("planted", planted)):
        recall = indexes.recall_of(wanted, pairs)
        figures[name] = {
            "n": recall.n,
            "hits": recall.hits,
            "low": recall.low,
            "high": recall.high,
        }
    return figures


def _exact_scan(vectors: np.ndarray, threshold: float) -> float:
    """Seconds of the search alone, by a sample of queries, for as many queries as vectors."""
    chosen = np.random.default_rng(2).permutation(len(vectors))[:_QUERIES]
    queries = indexes.unit(vectors[np.sort(chosen)])
    spent = 0.0
    for first in range(0, len(vectors), 100_000):
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(indexes.unit(vectors[first : first + 100_000]))
        begun = time.perf_counter()
        flat.range_search(queries, threshold)
        spent += time.perf_counter() - begun
    return spent * len(vectors) / len(queries)


def measured(folder: Path, threshold: float, threads: int, scan: float) -> dict[str, Any]:
    """Both measurements of one set, each in a child."""
    joined, done = _child("join", folder, threshold, threads, scan)
    joined["peak_bytes"] = max(joined["peak_bytes"], done.peak)
    return joined | _child("recall", folder, threshold, threads, scan)[0]


def _child(
    kind: str, folder: Path, threshold: float, threads: int, scan: float
) -> tuple[dict[str, Any], Finished]:
    command = [sys.executable, "-m", "tests.bench.join", "--measure", kind, "--set", str(folder)]
    command += ["--threshold", str(threshold), "--threads", str(threads), "--scan", str(scan)]
    blas = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}
    done = watch(command, os.environ | blas)
    if done.status:
        raise SystemExit(f"{kind} of {folder}: {done.why}")
    return json.loads(done.out.splitlines()[-1]), done


def whole(folder: Path, threshold: float, threads: int) -> dict[str, Any]:
    """The `dedup` command on the vectors, in clip-retrieval's layout, a process a thread."""
    from tests.bench.systems import ours

    with tempfile.TemporaryDirectory(dir=folder) as place:
        source, run = Path(place, "vectors"), Path(place, "run")
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        for name in ("img_emb", "metadata"):
            (source / name).mkdir(parents=True)
        os.link(folder / "vectors.npy", source / "img_emb" / "img_emb_0.npy")
        names = pa.array([f"{row:09d}" for row in range(len(vectors))])
        table = pa.table({"image_path": names, "caption": names})
        pq.write_table(table, source / "metadata" / "metadata_0.parquet")
        workers = ["--workers", str(threads)] if threads > 1 else []
        done = ours([source], run, ["--threshold", str(threshold), *workers])
        if done.status:
            return {"whole_error": done.why}
    return {"whole_s": done.seconds, "whole_peak_bytes": done.peak}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print the table and give its figures; in a child print those of one set as JSON."""
    given = _parse(arguments)
    if given.measure == "join":
        print(json.dumps(measure_join(given.set, given.threshold, given.threads)))
        return []
    if given.measure == "recall":
        print(json.dumps(measure_recall(given.set, given.threshold, given.threads, given.scan)))
        return []
    # Here, for the process that is measured needs none of it, and torch alone takes a gigabyte.
    from tests.bench.descriptors import default_descriptor, spectrum, write_crops, write_synthetic
    from tests.bench.pictures import distinct_clipart, read_pictures

    descriptor = default_descriptor()
    threshold = given.threshold or descriptor.threshold
    given.work.mkdir(parents=True, exist_ok=True)
    found = read_pictures(given.photos) if given.photos else distinct_clipart(given.work)
    pictures = [found[key] for key in sorted(found)]
    record: list[dict[str, Any]] = []

    def add(kind: str, folder: Path) -> None:
        n, d = np.load(folder / "vectors.npy", mmap_mode="r").shape
        row = {"set": kind, "n": n, "d": d, "threshold": threshold, "threads": given.threads}
        row |= measured(folder, threshold, given.threads, given.scan)
        row |= whole(folder, threshold, given.threads) if n in given.whole else {}
        record.append(row)
        Console(stderr=True).print(f"{kind} {n:,}: done", markup=False)

    source = given.photos.name if given.photos else "clipart"
    cached, kind = given.work.resolve() / "sets", f"{source}-{descriptor.name}"
    if given.crops:
        folder = cached / f"crops-{kind}-{given.crops}"
        add("real crops", write_crops(folder, given.crops, pictures, given.threads))
    if given.sizes:
        real, differences = spectrum(cached / f"spectrum-{kind}.npz", pictures)
    for n in given.sizes:
        with tempfile.TemporaryDirectory(dir=given.work) as folder:
            add("synthetic", write_synthetic(Path(folder, "set"), n, real, differences))
    _print(record, descriptor.name)
    return record


def _print(record: Sequence[dict[str, Any]], descriptor: str) -> None:
    console = Console(width=170)
    if not record:
        return
    first = record[0]
    console.print(
        f"{descriptor} at cosine {first['threshold']}, {first['threads']} threads, "
        f"{platform.machine()}; memory summed over processes"
    )
    headers = (
        "set",
        "vectors",
        "cells",
        "build s",
        "join s",
        "CPU s",
        "exact scan s",
        "ratio",
        "GiB",
    )
    table = Table(*headers, "recall, scanned", "recall, planted", "whole dedup")
    for row in record:
        total = row["build_s"] + row["join_s"]
        command = row.get("whole_error", "")
        if "whole_s" in row:
            command = f"{row['whole_s']:.0f} s, {row['whole_peak_bytes'] / 2**30:.2f} GiB"
        table.add_row(
            *(row["set"], f"{row['n']:,} x {row['d']}", f"{row['cells']:,}"),
            *(f"{row['build_s']:.1f}", f"{row['join_s']:.1f}"),
            *(f"{row['cpu_s']:.1f}", f"{row['exact_s']:,.0f}"),
            *(f"{row['exact_s'] / total:.0f}", f"{row['peak_bytes'] / 2**30:.2f}"),
            *(_share(row[name]) for name in ("scanned", "planted")),
            command,
        )
    console.print(table)
    if slope := fitted_exponent(record, "build_s", "join_s"):
        cpu = fitted_exponent(record, "cpu_s")
        console.print(
            f"from {_FITTED_FROM:,} synthetic vectors on, time grows as n^{slope:.2f}, "
            f"that of all cores as n^{cpu:.2f}"
        )


def fitted_exponent(record: Sequence[dict[str, Any]], *times: str) -> float | None:
    """Least squares of log time on log n over the synthetic sets; None for fewer than two."""
    fitted = [row for row in record if row["set"] == "synthetic" and row["n"] >= _FITTED_FROM]
    if len(fitted) < 2:
        return None
    sizes = np.log([row["n"] for row in fitted])
    spent = [sum(row[name] for name in times) for row in fitted]
    return float(np.polyfit(sizes, np.log(spent), 1)[0])


def _share(recall: dict[str, float]) -> str:
    n, hits = recall["n"], recall["hits"]
    share = f"{hits / n:.5f}" if n else "-"
    return f"{share} ({hits:,} of {n:,}; {recall['low']:.5f} to {recall['high']:.5f})"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=_SIZES)
    parser.add_argument("--crops", type=int, default=100_000, help="0 for none")
    parser.add_argument("--whole", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--threshold", type=float, help="least cosine")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scan", type=float, default=2e10, help="inner products for recall")
    parser.add_argument("--photos", type=Path, help="a folder of pictures, or of tars of them")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--measure", choices=("join", "recall"), help=argparse.SUPPRESS)
    parser.add_argument("--set", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
