"""What a deduplication of n pictures costs, from rates measured on small ones.

With d the width of a descriptor, q that of its sketch, c = 4 sqrt(n) cells (indexes.cells), at most
m probes a vector, s = 64 c vectors, at most n, that the cells are trained on in 10 rounds and two
levels, and w(x) seconds for x multiply-adds, on one core:

    scan    n / scan_rows
    embed   n / embed_rows
    cells   w(10 s sqrt(c) q + n c q) + n d / cell_numbers   k-means, assignment; reading, sketching
    join    w(m n (n / c) q) + n m / visits              sketches inside cells; gathering visitors
    exact   w(n^2 d)                                     in their place, for few pictures
    pdq     n comparisons(2 n) / hamming_pairs   of one code with all and their mirror images:
                                                 indexes.multi_index, or half of them
    groups  n / group_rows

On disk an embedding takes 2 d bytes (fp16), a PDQ hash 32, and the cells of an encoder hold vector,
sketch, id, probes and margins of each picture. A share r of near-duplicates in groups of g makes
n r (g - 1) / 2 edges. The sketches are in memory where cells are filled; a part of the join reads
all probes and holds who visits some of its cells. Hours are of a core; stages of a single part gain
nothing from more workers. Not in it: reading from a slow disk, the network, exact copies, export.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt

from indexes.cells import (
    CELLS_AT_ONCE,
    PROBES_AT_ONCE,
    SAMPLE,
    VISITORS_AT_ONCE,
    default_cells,
)
from indexes.centroids import ITERATIONS, TRAINED_ON
from indexes.multi_index import STORED_AT_ONCE, cheapest_tables

_ROWS_A_SHARD = 10_000
_BYTES_A_RECORD = 250  # of a receipt, for each input that it names
_PDQ_BITS = 31
_FILES_OF_CELLS = 7
_BYTES_A_ROW = 60  # of the manifest's narrow columns
_EDGE_BYTES = 28
ONE_PART = frozenset({"ids", "cells"})


@dataclass(frozen=True)
class Rates:
    """What one core does in a second; `python -m tests.bench.cost` measures them.

    The defaults are those of one x86-64 core of 2024 without a GPU, `scan_rows` and `embed_rows`
    for pictures of some 10 kB with lite0, PDQ and pixels.
    """

    scan_rows: float = 3700.0
    embed_rows: float = 120.0
    cell_macs: float = 5.1e10
    cell_numbers: float = 3.3e7
    join_macs: float = 5.1e10
    visits: float = 4.7e6
    exact_macs: float = 5.1e10
    hamming_pairs: float = 8.5e8
    group_rows: float = 3.5e5


@dataclass(frozen=True)
class Job:
    """n pictures with one descriptor; what is not given is the configuration's default."""

    n: int
    d: int = 512
    sketch: int = 64
    probes: int = 32
    cells: int | None = None
    rows_per_part: int = 50_000
    exact_up_to: int = 200_000
    duplicates: float = 0.1
    group_size: float = 3.0

    @property
    def in_cells(self) -> bool:
        """Whether there are too many to compare all with all."""
        return self.n > self.exact_up_to

    @property
    def n_cells(self) -> int:
        """Cells of the descriptor."""
        return min(self.cells or default_cells(self.n), self.n)


@dataclass(frozen=True)
class Cost:
    """Bytes and seconds on one core; `memory` is that of the largest part of each kind."""

    disk: Mapping[str, float]
    memory: Mapping[str, float]
    seconds: Mapping[str, float]
    cells: int
    edges: float

    def hours(self, workers: int = 1) -> dict[str, float]:
        """Hours of each stage on `workers` cores; a stage of one part keeps one busy."""
        shared = {name: 1 if name in ONE_PART else workers for name in self.seconds}
        return {name: s / shared[name] / 3600 for name, s in self.seconds.items()}


def trained_on(job: Job) -> int:
    """How many vectors the cells are trained on."""
    return min(job.n, TRAINED_ON * job.n_cells)


def cell_macs(job: Job) -> float:
    """Multiply-adds of training and filling the cells."""
    trained = ITERATIONS * trained_on(job) * sqrt(job.n_cells)
    return float(job.sketch * (trained + job.n * job.n_cells))


def join_macs(job: Job) -> float:
    """Multiply-adds of comparing sketches, were all cells of one size and all borders near."""
    return float(min(job.probes, job.n_cells) * job.n * (job.n / job.n_cells) * job.sketch)


def comparisons(n: float) -> float:
    """What one of n codes costs on average, as comparisons: half of the others come after it."""
    later = n / 2
    block = min(later, STORED_AT_ONCE)
    tables = cheapest_tables(_PDQ_BITS, int(block))
    return later if tables is None else later / block * tables.cost(int(block))


def cost(job: Job, rates: Rates | None = None) -> Cost:
    """The cost of a job at given rates; see the formulas above."""
    rates = rates or Rates()
    n, d, probes = float(job.n), job.d, min(job.probes, job.n_cells)
    edges = n * job.duplicates * (job.group_size - 1) / 2
    disk = {"embeddings": 2 * d * n, "pdq": 32 * n, "pairs": _EDGE_BYTES * edges}
    seconds = {"scan": n / rates.scan_rows, "embed": n / rates.embed_rows}
    parts = max(1.0, n / job.rows_per_part)
    # a part that compares all with all names the manifest of every shard; the driver keeps them
    named = _FILES_OF_CELLS if job.in_cells else n / _ROWS_A_SHARD
    memory = {"driver": _BYTES_A_ROW * n + _BYTES_A_RECORD * parts * named}
    if job.in_cells:
        in_a_cell = n / job.n_cells
        disk["cells"] = n * (2 * d + 4 * job.sketch + 8 + 6 * probes)
        memory["cells"] = n * (4 * job.sketch + 6 * probes + 32) + 8.0 * d * min(job.n, SAMPLE)
        memory["cells"] += 4.0 * job.sketch * trained_on(job)
        at_once = min(job.rows_per_part, CELLS_AT_ONCE * in_a_cell)
        visitors = 24 * probes * at_once + 8 * probes * min(job.n, PROBES_AT_ONCE)
        block = (job.sketch + VISITORS_AT_ONCE) * in_a_cell + job.sketch * VISITORS_AT_ONCE
        memory["join"] = visitors + 8 * block
        seconds["cells"] = cell_macs(job) / rates.cell_macs + n * d / rates.cell_numbers
        seconds["join"] = join_macs(job) / rates.join_macs + n * probes / rates.visits
    else:
        memory["join"] = 4.0 * d * n * 2
        seconds["join"] = n * n * d / rates.exact_macs
    seconds["pdq"] = n * comparisons(2 * n) / rates.hamming_pairs  # those mirrored, too
    seconds["groups"] = n / rates.group_rows
    return Cost(disk, memory, seconds, job.n_cells if job.in_cells else 0, edges)


def scaled(rates: Rates, speed: float) -> Rates:
    """The rates of a core that is `speed` times as fast in everything."""
    return replace(rates, **{name: value * speed for name, value in vars(rates).items()})
