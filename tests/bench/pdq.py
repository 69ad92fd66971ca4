"""The join of PDQ hashes: tables against the exact scan, in one run.

    python -m tests.bench.pdq [--sizes 10000 100000 1000000] [--radius 31] [--threads 1]
    python -m tests.bench.pdq --crossing       where tables begin to pay
    python -m tests.bench.pdq --crowded        sets that no table helps with

Codes are synthetic but not arbitrary: their bits depend on each other as those of the shipped
pictures do (a Gaussian with the tetrachoric correlations sin(pi r / 2) of the bits, cut at each
code's own median as PDQ does), and a tenth are near-duplicates that differ by what a real edit
changed. Both joins give the same pairs, or the script fails. The scan is FAISS's IndexBinaryFlat;
above 100,000 codes it is timed on some rows and extrapolated. "mirrored" is the time of the join
that also compares with every mirrored picture. Times of one thread are of the
processor, so that other programs do not count; of several they are of the clock.
"""

import argparse
import platform
import resource
import time
from collections.abc import Callable

import faiss
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.table import Table

import indexes
from indexes.join import _scan, sorted_pairs
from indexes.multi_index import later_neighbours
from pipeline.encoders.pdq import MIRROR, Pdq

_BITS = 256
_EDITED = 60
_SIZES = [10_000, 100_000, 1_000_000]
_CROSSING = [2_500, 5_000, 10_000, 20_000, 40_000]
_SCANNED_ROWS = 20_000
_BLOCK = 50_000

Codes = npt.NDArray[np.uint8]


def real_codes() -> tuple[Codes, Codes]:
    """Codes (n, 32) of pictures, and what edits changed in them (m, 32)."""
    from pipeline.calibration.edits import EDITS
    from pipeline.demo.plant import PICTURES
    from pipeline.demo.shards import decode, read_shards

    pictures = [
        decode(row.picture) for row in read_shards(PICTURES).values() if row.picture is not None
    ]
    found = Pdq().encode(pictures)
    assert found.quality is not None
    sound = np.flatnonzero(found.quality >= 50)
    rng = np.random.default_rng(0)
    changed: list[Codes] = []
    for number in sound[:_EDITED].tolist():
        edited: list[Image.Image] = [
            edit(pictures[number], rng, pictures[-1 - number]) for edit in EDITS.values()
        ]
        difference = Pdq().encode(edited).vectors ^ found.vectors[number]
        near = np.bitwise_count(difference).sum(axis=1) <= 40
        changed.append(difference[near])
    return np.unique(found.vectors[sound], axis=0), np.concatenate(changed)


def drawn_codes(n: int, real: Codes, changed: Codes) -> Codes:
    """n codes with the statistics of the real ones, a tenth of them near-duplicates."""
    bits = np.unpackbits(real, axis=1).astype(np.float64)
    correlation = np.corrcoef(bits.T)
    latent = 0.9 * np.sin(np.pi / 2 * correlation) + 0.1 * np.eye(_BITS)
    values, axes = np.linalg.eigh(latent)
    root = (axes * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    shift = np.sqrt(2 * np.pi) * (bits.mean(axis=0) - 0.5)  # the normal quantile, near a half
    rng = np.random.default_rng(1)
    codes = np.empty((n, _BITS // 8), np.uint8)
    for start in range(0, n, _BLOCK):
        size = min(_BLOCK, n - start)
        field = rng.standard_normal((size, _BITS), np.float32) @ root.T + shift
        codes[start : start + size] = np.packbits(
            field > np.median(field, axis=1, keepdims=True), axis=1
        )
    copies = n // 10
    source = rng.integers(0, n - copies, copies)
    codes[n - copies :] = codes[source] ^ changed[rng.integers(0, len(changed), copies)]
    return codes[rng.permutation(n)]


def crowded_sets(n: int, real: Codes, changed: Codes) -> dict[str, Codes]:
    """Sets whose codes are close together."""
    rng = np.random.default_rng(2)
    plain = drawn_codes(n, real, changed)
    near = np.packbits(rng.random((n, _BITS)) < 0.02, axis=1)
    one = plain.copy()
    one[: n // 20] = plain[0] ^ near[: n // 20]
    many = plain[rng.integers(0, n // 100, n)] ^ near
    half = plain.copy()
    half[:, :16] = plain[0, :16]
    return {
        "a twentieth around one code": one,
        "a hundred around each of n / 100": many,
        "half of the bits the same in all": half,
    }


def timed(threads: int, work: Callable[[], indexes.Pairs]) -> tuple[float, indexes.Pairs]:
    """Seconds, and the pairs."""
    faiss.omp_set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    start = clock()
    pairs = work()
    return clock() - start, pairs


def scan(codes: Codes, radius: int, threads: int) -> tuple[float, indexes.Pairs, slice]:
    """Seconds to compare all with all, and the pairs of the rows that were."""
    n = len(codes)
    first = 0 if n <= 100_000 else n // 2 - _SCANNED_ROWS // 2  # these have half of all after them
    rows = slice(first, n if n <= 100_000 else first + _SCANNED_ROWS)
    ids = np.arange(n)
    seconds, pairs = timed(
        threads,
        lambda: sorted_pairs(*_scan(codes, ids, radius, ids[rows], "hamming", None, None)),
    )
    return seconds * n / len(ids[rows]), pairs, rows


def compare(codes: Codes, radius: int, threads: int) -> list[str]:
    """One row of the table: both joins of one set. Raises AssertionError where they differ."""
    ids = np.arange(len(codes))
    scanned, expected, rows = scan(codes, radius, threads)
    joined, pairs = timed(threads, lambda: indexes.hamming_join(codes, ids, radius))
    mirrored, _ = timed(threads, lambda: indexes.hamming_join(codes, ids, radius, mirror=MIRROR))
    owned = (pairs.id_a >= rows.start) & (pairs.id_a < rows.stop)
    assert np.array_equal(pairs.id_a[owned], expected.id_a)
    assert np.array_equal(pairs.id_b[owned], expected.id_b)
    crowded = len(later_neighbours(codes[: 1 << 17], ids[: 1 << 14], radius)[2])
    return [
        f"{len(codes):,}",
        f"{len(pairs):,}",
        f"{crowded / min(len(codes), 1 << 14):.0%}",
        f"{joined:.2f}",
        f"{mirrored:.2f}",
        f"{scanned:,.2f}",
        f"{scanned / joined:.1f}",
    ]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--radius", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--crossing", action="store_true")
    parser.add_argument("--crowded", action="store_true")
    given = parser.parse_args()
    real, changed = real_codes()
    sizes = _CROSSING if given.crossing else [50_000] if given.crowded else given.sizes
    table = Table("set", "codes", "pairs", "scanned", "join s", "mirrored", "scan s", "ratio")
    for n in sizes:
        sets = (
            crowded_sets(n, real, changed)
            if given.crowded
            else {"as real ones": drawn_codes(n, real, changed)}
        )
        for name, codes in sets.items():
            table.add_row(name, *compare(codes, given.radius, given.threads))
    console = Console(width=110)
    console.print(
        f"join of PDQ hashes at {given.radius} bits, {given.threads} threads, {platform.machine()}"
    )
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"largest resident set {peak:.2f} GiB, the pictures' encoders included")


if __name__ == "__main__":
    main()
