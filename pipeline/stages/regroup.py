"""regroup: pictures that another generator made in, generations out, a caption's in one part.

What follows reads the same tars and tables as after `generate`. Bytes are copied as they are; how a
picture was made is not known, but for a seed that may lie beside it. Pictures with a caption come
in the order of captions, none divided between parts; the others in the order of files.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.detection.blank import is_blank
from pipeline.errors import InputError, ShardCorrupt
from pipeline.io import schemas
from pipeline.io.given_pictures import find_given
from pipeline.io.images import decode, to_square
from pipeline.io.runfolder import ACCEPTED, part_name
from pipeline.io.shards import write_shard
from pipeline.io.tables import read_parts, read_table, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, reject_counts, relative
from pipeline.stages.collect import class_names, list_collected, read_collected, read_picture
from pipeline.stages.scan import image_limits

Row = dict[str, Any]
_PER_PART = 1000
_BLANK_SIDE = 256
_COLUMNS = ["generation_id", "prompt_id", "shard", "key", "status"]


def plan(context: Context) -> list[Part]:
    """One part a block of captions, and one a block of pictures without."""
    names = list_collected(context)
    found = find_given(str(context.config.generate.folder))
    tars = {shard.name: shard.path for shard in found.shards}
    tables = [read_table(context.path(name), schemas.COLLECTED, columns=_COLUMNS) for name in names]
    classes = class_names(read_parts([context.path(n) for n in names], schemas.COLLECTED))
    rows = [
        (row["prompt_id"], row["generation_id"], number, place, row["shard"], row["key"])
        for number, table in enumerate(tables)
        for place, row in enumerate(table.to_pylist())
        if row["status"] == ACCEPTED
    ]
    captioned = sorted(row for row in rows if row[0] is not None and row[0] not in classes)
    alone = [row for row in rows if row[0] is None or row[0] in classes]
    parts: list[Part] = []
    for with_caption, blocks in ((True, _whole(captioned)), (False, _even(alone))):
        for block in blocks:
            manifests = sorted({names[row[2]] for row in block})
            files = {tars[row[4]] if row[4] else found.root / row[5] for row in block}
            inputs = [*manifests, *sorted(relative(path, context.run) for path in files)]
            params = {
                "captioned": with_caption,
                "root": str(found.root),
                "tars": {name: str(tars[name]) for name in sorted({r[4] for r in block} - {""})},
                "rows": [[names[row[2]], row[3]] for row in block],
            }
            parts.append(Part(part_name(len(parts)), tuple(inputs), params))
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Copy one block."""
    manifests = {name: read_collected(context, name) for name, _ in part.params["rows"]}
    tars = {name: context.path(path) for name, path in part.params["tars"].items()}
    rows: list[Row] = []
    samples: list[Row] = []
    for name, place in part.params["rows"]:
        found = manifests[name][place]
        data = read_picture(found, context.path(part.params["root"]), tars)
        row = _generation(found, _blank(data, context), captioned=part.params["captioned"])
        sample = {"__key__": row["key"], _extension(data): data}
        samples.append(sample | ({"txt": found["caption"].encode()} if found["caption"] else {}))
        rows.append(row)
    outputs = (f"generations/{part.name}.tar", f"generations/{part.name}.parquet")
    write_shard(context.path(outputs[0]), samples)
    write_rows(context.path(outputs[1]), rows, schemas.GENERATIONS)
    rejected = reject_counts([row["reason"] for row in rows if row["status"] != ACCEPTED])
    return Outcome(outputs, len(rows), len(rows) - sum(rejected.values()), rejected)


def _generation(found: Row, blank: bool, *, captioned: bool) -> Row:
    return {
        "generation_id": found["generation_id"],
        "key": f"{found['generation_id']:016x}",
        "prompt_id": found["prompt_id"] if captioned else None,
        "seed": found["seed"],
        "sha256": found["sha256"],
        "status": "rejected" if blank else ACCEPTED,
        "reason": "blank" if blank else "",
    }


def _blank(data: bytes, context: Context) -> bool:
    try:
        picture = decode(data, image_limits(context))
    except InputError as error:
        raise ShardCorrupt(f"a picture is not as it was collected ({error})") from error
    small: npt.NDArray[np.uint8] = np.asarray(picture, np.uint8)
    if max(picture.size) > _BLANK_SIDE:
        small = to_square(picture, _BLANK_SIDE)
    return bool(is_blank(small[None])[0])


def _extension(data: bytes) -> str:
    """By content: a name may say anything."""
    return "png" if data.startswith(b"\x89PNG") else "webp" if data.startswith(b"RIFF") else "jpg"


def _whole(rows: Sequence[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Blocks of about as many rows, those of one caption (first of the tuple) in one."""
    block: list[tuple[Any, ...]] = []
    for row in rows:
        if len(block) >= _PER_PART and row[0] != block[-1][0]:
            yield block
            block = []
        block.append(row)
    if block:
        yield block


def _even(rows: Sequence[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    for start in range(0, len(rows), _PER_PART):
        yield list(rows[start : start + _PER_PART])


STAGE = Stage("regroup", 1, ("scan",), plan, run, tolerant=True)
