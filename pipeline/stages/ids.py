"""ids: no two rows of a run share an image id.

Among five billion rows a pair of equal 63-bit hashes is expected. The row that comes later, by
shard and key, gets an id from a salted hash; readers of the manifest apply the table written here.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.io import schemas
from pipeline.io.manifest import read_images
from pipeline.io.runfolder import REKEYED, image_part, list_image_parts, own_image_parts
from pipeline.io.tables import read_parts, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.scan import salted_id


def plan(context: Context) -> list[Part]:
    """One part: ids can collide across shards only."""
    names = list_image_parts(context.run)
    return [Part("all", tuple(image_part(name) for name in names))]


def run(part: Part, context: Context) -> Outcome:
    """Write the table of replaced ids, which is nearly always empty."""
    del part
    (context.run / REKEYED).unlink(missing_ok=True)  # the ids as scanned, not as replaced before
    names = list_image_parts(context.run)
    # the ids alone: with shards and keys they take ten times the memory
    paths = [context.run / image_part(name) for name in names]
    ids = read_parts(paths, schemas.IMAGES, columns=["image_id"])["image_id"].to_numpy()
    ordered = np.sort(ids)
    values = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    replaced = _replacements(context, values) if len(values) else []
    write_rows(context.path(REKEYED), replaced, schemas.REKEYED)
    return Outcome((REKEYED,), len(ids), len(ids))


def _replacements(context: Context, values: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """New ids for all rows but the first that share one of `values`."""
    columns = ["image_id", "dataset", "shard", "key"]
    table = read_images(context.run, columns=columns, accepted_only=False)
    ids = table["image_id"].to_numpy()
    own = read_images(
        context.run, own_image_parts(context.run), columns=["shard"], accepted_only=False
    )
    added = set(own["shard"].unique().to_pylist())  # ids of an earlier run stay
    taken = set(ids.tolist())
    replaced = []
    for value in values:
        rows = table.take(np.flatnonzero(ids == value)).to_pylist()
        rows.sort(key=lambda row: (row["shard"] in added, row["shard"], row["key"]))
        for row in rows[1:]:
            salt = 1
            while (fresh := salted_id(row["dataset"], row["shard"], row["key"], salt)) in taken:
                salt += 1
            taken.add(fresh)
            replaced.append(
                {
                    "shard": row["shard"],
                    "key": row["key"],
                    "image_id": row["image_id"],
                    "new_image_id": fresh,
                }
            )
    return replaced


STAGE = Stage("ids", 1, (), plan, run)
