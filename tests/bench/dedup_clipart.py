"""The whole of Open Clip Art, as Debian has it: `python -m tests.bench.dedup_clipart`.

8,121 PNG files of which 905 groups (2,126 files) have equal bytes. A group of them is found if all
its files end in one group of the system's. What else the systems group has no truth here, and is
counted only. Our rows are whole commands on shards, peers' whole processes on a folder of the same
files, at their defaults. Memory is summed over processes.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import indexes
from tests.bench.pair_measures import Rows
from tests.bench.peers import WORK
from tests.bench.pictures import PictureSet, whole_clipart
from tests.bench.systems import our_systems, peer_systems, run_all

_PEERS = ("fastdup", "imagededup", "cleanvision")


@dataclass(frozen=True)
class Groups:
    """Groups of equal bytes in the set, those found, and what the system groups in all."""

    identical: int
    found: int
    groups: int
    grouped_files: int
    largest: int


def groups_of(pairs: Rows, original: Rows) -> Groups:
    """Connected components of the pairs beside the files of equal bytes, `original` (n,)."""
    rows = np.arange(len(original))
    component = indexes.connected_components(rows, pairs[:, 0], pairs[:, 1])
    _, sizes = np.unique(component, return_counts=True)
    _, copies = np.unique(original, return_counts=True)
    together = np.unique(np.stack([original, component], axis=1), axis=0)
    _, places = np.unique(together[:, 0], return_counts=True)
    grouped = sizes[sizes > 1]
    return Groups(
        identical=int((copies > 1).sum()),
        found=int(((copies > 1) & (places == 1)).sum()),
        groups=len(grouped),
        grouped_files=int(grouped.sum()),
        largest=int(sizes.max()),
    )


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print the table and give its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of peers")
    parser.add_argument("--system", action="append", default=[], metavar="NAME=ARGUMENTS")
    parser.add_argument("--only", action="append", default=[], help="rows whose name holds this")
    parser.add_argument("--limit", type=int, help="a trial on the first files")
    parser.add_argument("--work", type=Path, default=WORK)
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    console = Console(width=150)
    pictures: PictureSet = whole_clipart(given.work, given.limit)
    systems = [*our_systems(given.system, given.threads), *peer_systems(_PEERS)]
    if given.only:
        systems = [s for s in systems if any(word in s.label for word in given.only)]
    table = Table(title=f"Open Clip Art: {len(pictures.names):,} files")
    headers = ("system", "setting", "s", "GiB", "identical found", "missed", "groups")
    for name in (*headers, "files in them", "largest", "kept", "unreadable"):
        table.add_column(name, justify="left" if name in headers[:2] else "right")
    record = []
    for result in run_all(systems, pictures, given.work, given.threads, console):
        got = groups_of(result.found.pairs, pictures.original)
        kept = len(result.found.kept)
        counts = (got.found, got.identical - got.found, got.groups, got.grouped_files, got.largest)
        table.add_row(
            *(result.system.name, result.system.setting),
            *(f"{result.seconds:.1f}", f"{result.peak / 2**30:.2f}"),
            *(f"{count:,}" for count in (*counts, kept, result.rejected)),
        )
        record.append(result.figures() | asdict(got) | {"kept": kept})
    console.print(table)
    return record


if __name__ == "__main__":
    main()
