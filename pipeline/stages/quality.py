"""quality: which of two copies is better. The stage reads a column of the user's for it.

`groups.quality: column:NAME` is a column of the Parquet beside a shard, a field of its samples'
json, or a column of the table beside given vectors; clip_similarity is what the stage `captions`
measured. It is joined on the key, never by place: a Parquet of img2dataset has rows of failed
downloads that the tar has not.
"""

import difflib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.encoders.text import shares_space
from pipeline.errors import ConfigError, SchemaMismatch, first_line
from pipeline.io import schemas
from pipeline.io.manifest import read_images
from pipeline.io.runfolder import REKEYED, EmbeddingPart, image_part, list_image_parts
from pipeline.io.shards import group_members, read_member
from pipeline.io.tables import iter_tables, read_foreign, read_rows, table_from_columns, write_table
from pipeline.io.tarscan import scan_tar
from pipeline.io.vectors import key_column
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.ingest import vector_files_of
from pipeline.stages.scan import shards_of

CLIP_SIMILARITY = "clip_similarity"
_MAX_JSON_BYTES = 1 << 20

Values = npt.NDArray[np.float64]


def plan(context: Context) -> list[Part]:
    """One part a shard, where the quality is a column. Raises ConfigError where none has it."""
    column = context.config.groups.column
    if column is None:
        return []
    if column == CLIP_SIMILARITY and shares_space(context.config):
        return [
            Part(name, (image_part(name), REKEYED, _similarity(name, context)), {"column": column})
            for name in list_image_parts(context.run)
        ]
    files = _files(context)
    _require_column(column, files, context)
    return [
        Part(
            name,
            (image_part(name), REKEYED, *(relative(p, context.run) for p in files[name][0])),
            {"column": column, "key": files[name][1]},
        )
        for name in list_image_parts(context.run)
    ]


def run(part: Part, context: Context) -> Outcome:
    """Write the values of one shard's pictures; null where there is none."""
    table = read_images(context.run, [part.name], columns=["image_id", "key"])
    values_of = _given if "key" in part.params else _measured
    chosen = values_of(part, table, context)
    columns = {"image_id": table["image_id"], "value": chosen}
    output = _part_file(part.name)
    write_table(context.path(output), table_from_columns(columns, schemas.QUALITY))
    return Outcome((output,), table.num_rows, table.num_rows)


def _measured(part: Part, table: pa.Table, context: Context) -> list[float | None]:
    """What the stage `captions` measured of the rows of `table`."""
    rows = read_rows(context.path(part.inputs[2]), schemas.CLIP_SIMILARITY)
    values = {row["image_id"]: row[CLIP_SIMILARITY] for row in rows}
    return [values.get(image_id) for image_id in table["image_id"].to_pylist()]


def _given(part: Part, table: pa.Table, context: Context) -> list[float | None]:
    """What the user's tables say of them."""
    column = part.params["column"]
    paths = [context.path(name) for name in part.inputs[2:]]
    values: dict[str, float] = {}
    for path in paths:  # of a shard the table comes first, and a tar is walked only without one
        if path.suffix == ".tar":
            values = values or _of_tar(path, column)
        else:
            values = _of_table(path, column, part.params["key"])
    return [values.get(key) for key in table["key"].to_pylist()]


def list_quality(context: Context) -> list[str]:
    """The tables of this stage, where the run is configured to have it."""
    if context.config.groups.column is None:
        return []
    return [_part_file(name) for name in list_image_parts(context.run)]


def read_quality(ids: npt.NDArray[np.int64], context: Context) -> Values:
    """The values (n,) of `ids`, ascending; NaN where there is none."""
    values = np.full(len(ids), np.nan)
    for name in list_quality(context):
        for table in iter_tables(context.path(name), schemas.QUALITY):
            own = table["image_id"].to_numpy()
            mine = np.isin(own, ids)
            numbers = pc.fill_null(table["value"], np.nan).to_numpy()
            values[np.searchsorted(ids, own[mine])] = numbers[mine]
    return values


def quality_rank(
    images: pa.Table, quality: str, values: Values | None = None, *, ascending: bool = False
) -> npt.NDArray[np.int64]:
    """Rank (n,), 0 best: by quality, then sha256, then uid, so that row order never decides.

    `values` (n,) are those of the column, where the quality is one. The largest is best, with
    `ascending` the smallest; what is not known is worst.
    """
    columns: dict[str, Any] = {}
    sign = 1 if ascending else -1
    if quality == "first":
        columns |= {"shard": images["shard"], "key": images["key"]}
    elif quality in ("bytes", "resolution"):
        names = ["size"] if quality == "bytes" else ["width", "height"]
        sizes = [pc.cast(images[name], pa.float64()) for name in names]
        measure = sizes[0] if quality == "bytes" else pc.multiply(*sizes)
        values = pc.fill_null(measure, np.nan).to_numpy()
    if quality != "first":
        given = np.full(images.num_rows, np.nan) if values is None else values
        unknown = np.isnan(given)
        columns["unknown"] = pa.array(unknown).cast(pa.int8())
        columns["worse"] = pa.array(np.where(unknown, 0.0, sign * given))
    columns |= {name: pc.fill_null(images[name], "") for name in ("sha256", "uid")}
    columns["image_id"] = images["image_id"]
    table = pa.table(columns)
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in columns])
    rank = np.empty(images.num_rows, np.int64)
    rank[order.to_numpy()] = np.arange(images.num_rows)
    return rank


def _similarity(name: str, context: Context) -> str:
    return EmbeddingPart(context.config.captions.encoder or "", name).clip_similarity


def _part_file(name: str) -> str:
    return f"quality/part-{name}.parquet"


def _files(context: Context) -> dict[str, tuple[list[Path], str]]:
    """For each part of the manifest where its values may lie, and the table's column of keys."""
    if context.config.dataset.embeddings:
        files = vector_files_of(context)
        return {f"{file.number:05d}": ([file.metadata], key_column(file)) for file in files}
    found = {}
    for shard in shards_of(context):
        tables = [shard.metadata] if shard.metadata.is_file() else []
        found[f"{shard.number:05d}"] = [*tables, shard.path], "key"
    return found


def _require_column(
    column: str, files: dict[str, tuple[list[Path], str]], context: Context
) -> None:
    seen: set[str] = set()
    for name in list_image_parts(context.run):
        for path in files[name][0]:
            seen |= _fields_of_tar(path) if path.suffix == ".tar" else _columns_of(path)
            if column in seen:
                return
    close = difflib.get_close_matches(column, sorted(seen), n=3, cutoff=0.5)
    mend = (
        f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(seen))}"
    )
    raise ConfigError(f"groups.quality: no shard has a column {column}; {mend[:300]}")


def _columns_of(path: Path) -> set[str]:
    try:
        return set(pq.read_schema(path).names)
    except (OSError, ValueError, pa.ArrowException):
        return set()  # scan has said so


def _of_table(path: Path, column: str, key: str) -> dict[str, float]:
    if not {column, key} <= _columns_of(path):
        return {}
    table = read_foreign(path, columns=[key, column])
    kind = table[column].type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise SchemaMismatch(f"{path}: column {column} is {kind}, expected numbers")
    try:
        keys = pc.cast(table[key], pa.string()).to_pylist()
        numbers = pc.cast(table[column], pa.float64(), safe=False).to_pylist()
    except pa.ArrowException as error:
        raise SchemaMismatch(f"{path}: {first_line(error)}") from error
    return {k: v for k, v in zip(keys, numbers, strict=True) if k and v is not None}


def _of_tar(path: Path, column: str) -> dict[str, float]:
    """The numbers of a field in the samples' json."""
    values = {}
    for key, fields in _json_of(path):
        value = fields.get(column)
        if isinstance(value, int | float) and not isinstance(value, bool):
            values[key] = float(value) if abs(value) < 1e300 else np.nan
    return values


def _fields_of_tar(path: Path) -> set[str]:
    return {name for _, fields in _json_of(path, most=1) for name in fields}


def _json_of(path: Path, most: int | None = None) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    samples, _ = group_members(scan_tar(path).members)
    with path.open("rb") as handle:
        for key, sample in samples.items():
            member = sample.members.get("json")
            if member is None or member.size > _MAX_JSON_BYTES:
                continue
            try:
                fields = json.loads(read_member(handle, member.offset, member.size))
            except (ValueError, RecursionError):
                continue
            if isinstance(fields, dict):
                found.append((key, fields))
            if most is not None and len(found) >= most:
                break
    return found


STAGE = Stage("quality", 1, (), plan, run)
