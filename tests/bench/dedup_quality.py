"""Which share of edited copies is found: `python -m tests.bench.dedup_quality [--photos PLACE]`.

PLACE is a folder of pictures that are all different, or of tars of them; without it, drawings of
Open Clip Art. 1,000 of them and 16 edits of 250 make 5,000 files. Our rows are whole commands on
shards of these files, peers' are whole processes on a folder of the same files, at their defaults.

Precision is over all pairs that a system lists, recall over (original, edit) pairs. Of the files
that we drop, "uncovered" counts those without a kept one that is paired with them; of the distinct
pictures, "lost" counts those of which no version is kept. Peers without survivors keep one file of
each connected component. Memory is summed over processes.

`--same A,B` says that the pictures of two keys show the same thing: such pairs are neither true nor
false, and one of the two may be dropped. `--system "NAME=ARGUMENTS"` adds a row of ours. Nothing is
asserted; timings belong to the machine they were taken on.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.pair_measures import Measures, measure
from tests.bench.peers import WORK
from tests.bench.pictures import distinct_clipart, edited_set, read_pictures
from tests.bench.systems import Result, our_systems, peer_systems, run_all

_SHOWN = 5


def rows_of_table(result: Result, found: Measures) -> list[str]:
    """The measures of one system, as text."""
    return [
        result.system.name,
        result.system.setting,
        f"{result.seconds:.1f}",
        f"{result.peak / 2**30:.2f}",
        f"{found.precision:.5f} ({found.false:,} of {found.true + found.false:,})",
        f"{found.mean_recall:.3f}",
        f"{found.kept:,}",
        f"{found.uncovered:,}",
        f"{found.lost:,} ({found.lost / found.distinct:.2%})",
    ]


def by_edit(results: Sequence[tuple[Result, Measures]]) -> Table:
    """Recall of each edit, a column a system."""
    table = Table("edit", title="recall by edit")
    for result, _ in results:
        table.add_column(result.system.label, justify="right")
    for name in results[0][1].recall:
        table.add_row(name, *(f"{found.recall[name]:.3f}" for _, found in results))
    return table


def figures(result: Result, found: Measures, keys: Sequence[str]) -> dict[str, Any]:
    """One row for the record, with the worst pairs by their keys."""
    measured = asdict(found) | {"precision": found.precision, "mean_recall": found.mean_recall}
    measured["confused"] = [[keys[a], keys[b], n] for a, b, n in found.confused[:20]]
    return result.figures() | measured


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print the tables and give their figures."""
    given = _parse(arguments)
    console = Console(width=170)
    given.work.mkdir(parents=True, exist_ok=True)
    pictures = read_pictures(given.photos) if given.photos else distinct_clipart(given.work)
    chosen = edited_set(pictures, given.distinct, given.edited, given.work)
    place = {key: number for number, key in enumerate(chosen.keys)}
    pairs = [tuple(text.split(",")) for text in given.same]
    same = [(place[a], place[b]) for a, b in pairs if a in place and b in place]
    systems = [*our_systems(given.system, given.threads), *peer_systems()]
    if given.only:
        systems = [s for s in systems if any(word in s.label for word in given.only)]
    results = [
        (result, measure(result.found, chosen.original, chosen.edit, same))
        for result in run_all(systems, chosen, given.work, given.threads, console)
    ]
    if not results:
        return []
    title = f"{len(chosen.names):,} files: {given.distinct:,} {given.photos or 'drawings'}, "
    table = Table(
        title=f"{title}{given.edited} edited in 16 ways; {len(same)} pairs called the same"
    )
    headers = ("system", "setting", "s", "GiB", "pair precision (false of pairs)", "mean recall")
    for name in (*headers, "kept", "uncovered", "lost"):
        table.add_column(name, justify="left" if name in headers[:2] else "right")
    for result, found in results:
        table.add_row(*rows_of_table(result, found))
    console.print(table)
    console.print(by_edit(results))
    for result, found in results[: 1 if given.photos else 0]:
        for a, b, n in found.confused[:_SHOWN]:
            names = f"{chosen.keys[a]} and {chosen.keys[b]}"
            console.print(f"{result.system.setting}: {n} false pairs of {names}", markup=False)
    return [figures(result, found, chosen.keys) for result, found in results]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="a folder of pictures, or of tars of them")
    parser.add_argument("--distinct", type=int, default=1000)
    parser.add_argument("--edited", type=int, default=250)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of peers")
    parser.add_argument("--system", action="append", default=[], metavar="NAME=ARGUMENTS")
    parser.add_argument("--only", action="append", default=[], help="rows whose name holds this")
    parser.add_argument("--same", action="append", default=[], metavar="A,B")
    parser.add_argument("--work", type=Path, default=WORK)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
