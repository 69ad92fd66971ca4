"""cells: too many vectors to compare all with all in, the cells that their pairs are sought in out.

One copy of the vectors, fp16 and in the order of cells, so that a part of `pairs` reads its cells
as one piece of a file and holds no more than a cell and its visitors. Exact copies are left out:
their star is known, and a million of one placeholder would make one cell of a million; so are hubs.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import indexes
from pipeline.config import joined_encoders
from pipeline.encoders import metric_of
from pipeline.io.atomic import TEMPORARY_PREFIX, atomic_path
from pipeline.io.embeddings import map_embeddings
from pipeline.io.manifest import count_accepted, read_centres
from pipeline.io.runfolder import (
    REKEYED,
    hubs_file,
    image_part,
    list_embedding_parts,
    list_image_parts,
    read_hub_members,
)
from pipeline.runner.part import Context, Outcome, Part, Stage

_ROWS_AT_ONCE = 1 << 16
_FILES = ("vectors", "ids", "sketches", "probes", "margins", "centroids")


@dataclass(frozen=True, eq=False)
class StoredCells:
    """The cells of an encoder as memory maps; all rows correspond but those of the centroids."""

    vectors: npt.NDArray[np.float16]
    ids: npt.NDArray[np.int64]
    cells: indexes.Cells


def cell_files(encoder: str) -> tuple[str, ...]:
    """What this stage writes for an encoder, relative to the run folder."""
    return tuple(f"cells/{encoder}/{name}.npy" for name in _FILES)


def open_cells(run: Path, encoder: str) -> StoredCells | None:
    """The cells of an encoder; None where all its vectors are compared with all."""
    paths = [run / name for name in cell_files(encoder)]
    if not all(path.is_file() for path in paths):
        return None
    vectors, ids, sketches, probes, margins, centroids = (
        np.load(path, mmap_mode="r") for path in paths
    )
    return StoredCells(vectors, ids, indexes.Cells(sketches, centroids, probes, margins))


def plan(context: Context) -> list[Part]:
    """One part an encoder that is joined by cosine; none where the set is small."""
    config = context.config
    if count_accepted(context.run) <= config.pairs.exact_up_to:
        return []
    manifest = tuple(image_part(name) for name in list_image_parts(context.run))
    parts = []
    for name in joined_encoders(config):
        if metric_of(config.embed.encoders[name]) == "cosine":
            files = list_embedding_parts(context.run, name)
            inputs = tuple(path for file in files for path in (file.vectors, file.metadata))
            inputs += (hubs_file(name),) if context.path(hubs_file(name)).is_file() else ()
            parts.append(Part(name, (*manifest, REKEYED, *inputs), {"encoder": name}))
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Train and fill the cells of one encoder."""
    name, config = part.params["encoder"], context.config
    outputs = cell_files(name)
    context.path(outputs[0]).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=context.run) as folder:
        joined = np.setdiff1d(read_centres(context.run), read_hub_members(context.run, name))
        scratch = Path(folder, "by_id.npy")
        ids, vectors = map_embeddings(context.run, name, scratch, among=joined)
        cells = indexes.build_cells(
            vectors,
            ids,
            cells=config.pairs.cells,
            probes=config.pairs.probes,
            seed=config.seed,
            threads=config.runner.threads_per_part,
        )
        order = np.argsort(cells.probes[:, 0], kind="stable")
        columns: tuple[npt.NDArray[Any], ...] = (vectors, ids, cells.sketches)
        columns += (cells.probes, cells.margins)
        for output, rows in zip(outputs, columns, strict=False):
            _write(context.path(output), rows, order)
    _write(context.path(outputs[-1]), cells.centroids, np.arange(len(cells)))
    return Outcome(outputs, len(ids), len(ids))


def _write(path: Path, rows: npt.NDArray[Any], order: npt.NDArray[np.int64]) -> None:
    with atomic_path(path) as temporary:
        shape = (len(order), *rows.shape[1:])
        written = np.lib.format.open_memmap(temporary, "w+", rows.dtype, shape)
        for start in range(0, len(order), _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            written[block] = rows[order[block]]
        written.flush()


STAGE = Stage("cells", 3, ("pairs", "embed"), plan, run)
