"""components: pairs in, for every accepted picture the smallest id of its component out.

One part, for a component may span all shards, but no pair stays in memory: pairs are streamed, a
batch at a time, through the labels of indexes.labels. Memory: 24 bytes a picture and a batch of
pairs; 20 where the labels' pointers lie on disk (groups.max_memory_gb).

It also divides the components among the parts of `survivors`.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexes import ComponentLabels
from pipeline.errors import MissingInput
from pipeline.io import schemas
from pipeline.io.atomic import TEMPORARY_PREFIX, atomic_path, write_bytes
from pipeline.io.manifest import read_images
from pipeline.io.runfolder import (
    OLD_DUPLICATES,
    REKEYED,
    current_groups,
    image_part,
    list_image_parts,
    list_pairs,
)
from pipeline.io.tables import iter_tables
from pipeline.runner.part import Context, Outcome, Part, Stage

IDS, LABELS, SIZES = "components/ids.npy", "components/labels.npy", "components/sizes.npy"
CUTS = "components/cuts.json"

Array64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Components:
    """All accepted pictures, ids ascending, with their component and its size: memory maps."""

    ids: Array64
    labels: Array64
    sizes: npt.NDArray[np.int32]

    def rows_of(self, ids: Array64) -> Array64:
        """Where accepted `ids` stand."""
        return np.asarray(np.searchsorted(self.ids, ids), np.int64)


def open_components(run: Path) -> Components:
    """What this stage wrote."""
    return Components(*(np.load(run / name, mmap_mode="r") for name in (IDS, LABELS, SIZES)))


def read_cuts(run: Path) -> list[tuple[int, int]]:
    """Ranges of labels, first and last, that hold about equally many pictures and pairs."""
    if not (run / CUTS).is_file():
        raise MissingInput(f"{run}: no {CUTS}; run the stage components first")
    values: list[tuple[int, int]] = json.loads((run / CUTS).read_bytes())
    return values


def pair_batches(run: Path) -> Iterator[pa.Table]:
    """All pairs of a run, at most a million at a time."""
    for name in list_pairs(run):
        yield from iter_tables(run / name, schemas.PAIRS)


def plan(context: Context) -> list[Part]:
    """One part."""
    manifest = [image_part(name) for name in list_image_parts(context.run)]
    old = [OLD_DUPLICATES] if (context.run / OLD_DUPLICATES).is_file() else []
    return [Part("all", (*manifest, REKEYED, *list_pairs(context.run), *old))]


def run(part: Part, context: Context) -> Outcome:
    """Write ids, labels and sizes, and how the components are divided."""
    del part
    ids = _accepted_ids(context.run)
    degree = np.zeros(len(ids), np.int32)
    spilled = 4 * len(ids) > context.config.groups.max_memory_gb * 1e9
    with (
        tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=context.run) as folder,
        ComponentLabels(ids, Path(folder, "points.npy") if spilled else None) as labels,
    ):
        for table in pair_batches(context.run):
            id_a, id_b = table["id_a"].to_numpy(), table["id_b"].to_numpy()
            labels.join(id_a, id_b)
            rows, counts = np.unique(np.searchsorted(ids, id_a), return_counts=True)
            degree[rows] += counts.astype(np.int32)
        found = _kept_ids(labels.labels(), ids, context.run)
    sizes, cuts = _divided(ids, found, degree, context.config.groups.rows_per_part)
    for name, column in ((IDS, ids), (LABELS, found), (SIZES, sizes)):
        with atomic_path(context.path(name)) as temporary, temporary.open("wb") as file:
            np.save(file, column, allow_pickle=False)
    write_bytes(context.path(CUTS), json.dumps(cuts).encode())
    return Outcome((IDS, LABELS, SIZES, CUTS), len(ids), len(ids))


def _accepted_ids(run: Path) -> Array64:
    parts = [
        read_images(run, [name], columns=["image_id"])["image_id"].to_numpy()
        for name in list_image_parts(run)
    ]
    ids = np.concatenate([np.zeros(0, np.int64), *parts])
    ids.sort()
    return ids


def _kept_ids(labels: Array64, ids: Array64, run: Path) -> Array64:
    """The labels; of a component that has groups of the run that this one was added to the
    smallest id of theirs, which is that of a member, too."""
    if not (run / OLD_DUPLICATES).is_file():
        return labels
    root = np.searchsorted(ids, labels)
    smallest = np.full(len(ids), np.iinfo(np.int64).max)
    columns = ["image_id", "group_id", "merged_into"]
    for table in iter_tables(run / OLD_DUPLICATES, schemas.DUPLICATES, columns=columns):
        rows = np.searchsorted(ids, table["image_id"].to_numpy())
        np.minimum.at(smallest, root[rows], current_groups(table))
    known = smallest[root] < np.iinfo(np.int64).max
    return np.where(known, smallest[root], labels)


def _divided(
    ids: Array64, labels: Array64, degree: npt.NDArray[np.int32], budget: int
) -> tuple[npt.NDArray[np.int32], list[tuple[int, int]]]:
    """The size of each row's component; ranges of labels of about `budget` pictures and pairs."""
    rows = np.searchsorted(ids, labels)
    size = np.bincount(rows, minlength=len(ids))
    work = np.bincount(rows, degree, minlength=len(ids)) + size
    roots = np.flatnonzero(size > 1)
    if not len(roots):
        return np.ones(len(ids), np.int32), []
    number = ((np.cumsum(work[roots]) - work[roots]) // budget).astype(np.int64)
    _, first = np.unique(number, return_index=True)
    last = np.append(first[1:], len(roots)) - 1
    ranges = zip(ids[roots[first]].tolist(), ids[roots[last]].tolist(), strict=True)
    return size[rows].astype(np.int32), list(ranges)


STAGE = Stage("components", 1, ("groups",), plan, run)
