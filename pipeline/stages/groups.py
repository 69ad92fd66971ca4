"""groups: survivors in, one row a picture out: its group, and whether it is kept.

duplicates.parquet has all accepted pictures in the order of their ids, which are hashes: rows of
one shard are scattered over all of it. So each column that only the manifest has is dealt out to
ranges of ids on disk, and a range at a time is written. Memory: 9 bytes a picture (whether a row is
grouped, and where), the grouped pictures, and two ranges.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.io import schemas
from pipeline.io.atomic import TEMPORARY_PREFIX
from pipeline.io.manifest import read_images
from pipeline.io.runfolder import (
    DUPLICATES,
    GROUPS,
    OLD_DUPLICATES,
    REKEYED,
    image_part,
    list_image_parts,
)
from pipeline.io.tables import (
    iter_tables,
    read_parts,
    read_table,
    table_from_columns,
    write_table,
    write_tables,
)
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.against import CONTAMINATED, list_contamination
from pipeline.stages.components import IDS, LABELS, SIZES, Components, open_components, read_cuts
from pipeline.stages.survivors import facts_part, survivors_part

_ROWS_AT_ONCE = 1 << 20
_MOST_FILES = 200  # open at once; a range has more rows where there would be more
_OF_IMAGES = ("image_id", "uid", "url")


def plan(context: Context) -> list[Part]:
    """One part, for all is one file."""
    numbers = [f"{number:05d}" for number in range(len(read_cuts(context.run)))]
    manifest = [image_part(name) for name in list_image_parts(context.run)]
    chosen = [path for n in numbers for path in (survivors_part(n), facts_part(n))]
    inputs = (*manifest, REKEYED, IDS, LABELS, SIZES, *chosen, *list_contamination(context))
    inputs += (OLD_DUPLICATES,) if (context.run / OLD_DUPLICATES).is_file() else ()
    return [Part("all", inputs, {"ranges": numbers})]


def run(part: Part, context: Context) -> Outcome:
    """Write duplicates.parquet and groups.parquet."""
    numbers, components = part.params["ranges"], open_components(context.run)
    paths = [context.run / survivors_part(number) for number in numbers]
    survivors = read_parts(paths, schemas.SURVIVORS).sort_by("image_id")
    bad, old = _contaminated(context), _old_groups(context.run)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=context.run) as folder:
        ranges = _dealt(context.run, components, Path(folder))
        tables = (_range(images, components, survivors, bad, old) for images in ranges)
        rows = write_tables(context.path(DUPLICATES), tables, schemas.DUPLICATES)
    facts = read_parts([context.run / facts_part(number) for number in numbers], schemas.GROUPS)
    write_table(context.path(GROUPS), facts)
    return Outcome((DUPLICATES, GROUPS), len(components.ids), rows)


def _range(
    images: pa.Table,
    components: Components,
    survivors: pa.Table,
    bad: npt.NDArray[np.int64],
    old: pa.Table,
) -> pa.Table:
    """The rows of duplicates.parquet of consecutive ids."""
    ids = images["image_id"].to_numpy()
    rows = components.rows_of(ids)
    alone = components.sizes[rows] == 1
    place = np.searchsorted(survivors["image_id"].to_numpy(), ids)
    chosen = survivors.take(pa.array(np.where(alone, 0, place), mask=alone))
    clean = ~np.isin(ids, bad)
    group_id, merged_into = _named(ids, components.labels[rows], old)
    columns = {
        "image_id": ids,
        "uid": images["uid"],
        "url": images["url"],
        "group_id": group_id,
        "group_size": components.sizes[rows],
        "keep": pc.coalesce(chosen["keep"].combine_chunks(), pa.array(clean)),
        "reason": pc.coalesce(
            chosen["reason"].combine_chunks(),
            pc.if_else(pa.array(clean), "unique", CONTAMINATED),
        ),
        "representative_id": pc.coalesce(
            chosen["representative_id"].combine_chunks(), pa.array(ids)
        ),
        "similarity_to_representative": pc.fill_null(chosen["similarity_to_representative"], 1.0),
        "merged_into": merged_into,
        "subgroup_id": pc.coalesce(chosen["subgroup_id"].combine_chunks(), pa.array(ids)),
    }
    return table_from_columns(columns, schemas.DUPLICATES)


def _old_groups(run: Path) -> pa.Table:
    """The groups of the run that this one was added to; no rows where there is none."""
    paths = [run / OLD_DUPLICATES] if (run / OLD_DUPLICATES).is_file() else []
    table = read_parts(paths, schemas.DUPLICATES, columns=["image_id", "group_id"])
    return table.sort_by("image_id")


def _named(
    ids: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], old: pa.Table
) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """The columns group_id, which an old picture keeps, and merged_into."""
    known, groups = old["image_id"].to_numpy(), old["group_id"].to_numpy()
    place = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
    is_old = known[place] == ids if len(known) else np.zeros(len(ids), bool)
    group_id = np.array(labels)
    group_id[is_old] = groups[place[is_old]]
    return group_id, pa.array(labels, mask=group_id == labels)


def _dealt(run: Path, components: Components, folder: Path) -> Iterator[pa.Table]:
    """The manifest's columns in the order of ids, a range of ids at a time."""
    total = len(components.ids)
    step = max(_ROWS_AT_ONCE, -(-total // _MOST_FILES))
    bounds = components.ids[step::step]
    paths = [folder / f"{number}.parquet" for number in range(len(bounds) + 1)]
    wanted = pa.schema([schemas.IMAGES.field(name) for name in _OF_IMAGES])
    with ExitStack() as stack:
        writers = [stack.enter_context(pq.ParquetWriter(path, wanted)) for path in paths]
        for images in _gathered(run):
            number = np.searchsorted(bounds, images["image_id"].to_numpy(), side="right")
            for place in np.unique(number).tolist():
                writers[place].write_table(images.filter(pa.array(number == place)))
    for path in paths:
        yield read_table(path, wanted).sort_by("image_id")
        path.unlink()


def _gathered(run: Path) -> Iterator[pa.Table]:
    """The manifest's parts, several small ones as one table."""
    waiting: list[pa.Table] = []
    for name in list_image_parts(run):
        waiting.append(read_images(run, [name], columns=_OF_IMAGES))
        if sum(table.num_rows for table in waiting) >= _ROWS_AT_ONCE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _contaminated(context: Context) -> npt.NDArray[np.int64]:
    found = [
        table["image_id"].to_numpy()
        for name in list_contamination(context)
        for table in iter_tables(context.path(name), schemas.CONTAMINATION, columns=["image_id"])
    ]
    return np.concatenate([np.zeros(0, np.int64), *found])


STAGE = Stage("groups", 3, (), plan, run)
