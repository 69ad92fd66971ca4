"""export: the deduplicated training set.

keep.parquet and drop.parquet always; removal_ids.parquet as NeMo Curator removes by it; keep.npy
and drop.npy in DataComp's format where every row has a uid; contaminated.parquet where evaluation
sets were given; and the shards again with the kept samples only, each member's bytes as they were,
tar, Parquet and statistics in step. Where the run was added to another, the lists are of both, the
shards of this one.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ShardCorrupt
from pipeline.io import schemas
from pipeline.io.atomic import write_bytes
from pipeline.io.manifest import DIGESTS, read_images
from pipeline.io.runfolder import (
    CONTAMINATED,
    DUPLICATES,
    REKEYED,
    image_part,
    list_image_parts,
    own_image_parts,
)
from pipeline.io.shards import Shard, group_members, read_member, write_shard
from pipeline.io.tables import read_foreign, read_table, table_from_columns, write_table
from pipeline.io.tarscan import scan_tar
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.against import CONTAMINATED as BAD
from pipeline.stages.against import list_contamination, read_contamination
from pipeline.stages.scan import shards_of

_LISTS = "lists"
_UID_DIGITS = 32
_REMOVAL_IDS = "export/removal_ids.parquet"


def plan(context: Context) -> list[Part]:
    """One part for the lists, and one a shard."""
    manifest = tuple(image_part(name) for name in list_image_parts(context.run))
    parts = [Part(_LISTS, (*manifest, REKEYED, DUPLICATES, *list_contamination(context)))]
    if context.config.export.write_shards:
        shards = {f"{shard.number:05d}": shard for shard in shards_of(context)}
        for name in own_image_parts(context.run):
            files = [p for p in (shards[name].path, shards[name].metadata) if p.is_file()]
            inputs = tuple(relative(path, context.run) for path in files)
            params = {"shard": shards[name].name}
            parts.append(Part(name, (image_part(name), REKEYED, DUPLICATES, *inputs), params))
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Write the lists, or one shard."""
    return _write_lists(context) if part.name == _LISTS else _write_shard(part, context)


def datacomp_subset(uids: list[str]) -> npt.NDArray[np.void]:
    """Uids as DataComp reads them: dtype u8,u8, sorted, each once.

    Its reader uses `searchsorted`, so an unsorted file would silently drop samples.
    """
    pairs = sorted({(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids})
    return np.array(pairs, dtype=np.dtype("u8,u8"))


def _write_lists(context: Context) -> Outcome:
    duplicates = read_table(context.path(DUPLICATES), schemas.DUPLICATES)
    images = read_images(context.run, columns=["image_id", "shard", "key", *DIGESTS])
    places = images.drop_columns(list(DIGESTS))
    table = duplicates.join(places, "image_id", join_type="inner").sort_by("image_id")
    outputs = [_REMOVAL_IDS]
    distinct, twice = _has_uids(duplicates), _shared_uid(duplicates)
    write_table(context.path(_REMOVAL_IDS), removal_ids(duplicates))
    if context.config.against:
        outputs.append(CONTAMINATED)
        found = read_contamination(context, images)
        found = found.join(duplicates.select(["image_id", "uid", "url"]), "image_id")
        chosen = found.select(schemas.CONTAMINATED.names).sort_by("image_id")
        write_table(context.path(CONTAMINATED), chosen.cast(schemas.CONTAMINATED))
    for name, chosen in (("keep", table["keep"]), ("drop", pc.invert(table["keep"]))):
        rows = table.filter(chosen).select(schemas.EXPORT_ROWS.names).cast(schemas.EXPORT_ROWS)
        outputs.append(f"export/{name}.parquet")
        write_table(context.path(outputs[-1]), rows)
        if distinct and not twice:
            buffer = io.BytesIO()
            np.save(buffer, datacomp_subset(rows["uid"].to_pylist()), allow_pickle=False)
            outputs.append(f"export/{name}.npy")
            write_bytes(context.path(outputs[-1]), buffer.getvalue())
    notes = (
        f"uid {twice} is that of several pictures; keep.npy and drop.npy would mix them up and are "
        "not written, keep.parquet has image_id",
    )
    rows = duplicates.num_rows
    return Outcome(tuple(outputs), rows, table.num_rows, notes=notes if distinct and twice else ())


def removal_ids(duplicates: pa.Table) -> pa.Table:
    """What is dropped, as NeMo Curator reads it: one column `id`, text, sorted.

    Uids where every picture has one of its own, since an id that a kept picture shares would
    remove that one too; else image ids.
    """
    uids = duplicates["uid"].to_pylist()
    own = all(uids) and len(set(uids)) == len(uids)
    ids = uids if own else map(str, duplicates["image_id"].to_pylist())
    dropped = pc.invert(duplicates["keep"]).to_pylist()
    chosen = sorted(name for name, drop in zip(ids, dropped, strict=True) if drop)
    return table_from_columns({"id": chosen}, schemas.REMOVAL_IDS)


def _has_uids(table: pa.Table) -> bool:
    uids = table["uid"].to_pylist()
    return bool(uids) and all(uid is not None and _is_uid(uid) for uid in uids)


def _shared_uid(table: pa.Table) -> str | None:
    """The first uid that two pictures have, if any."""
    counted = table["uid"].drop_null().value_counts()
    shared = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
    return min(shared.to_pylist(), default=None)


def _is_uid(uid: str) -> bool:
    return len(uid) == _UID_DIGITS and set(uid) <= set("0123456789abcdef")


def _write_shard(part: Part, context: Context) -> Outcome:
    rows = read_images(context.run, [part.name], columns=["image_id", "key", "member", "sha256"])
    rows = rows.to_pylist()
    columns = ["image_id", "keep", "reason"]
    table = read_table(context.path(DUPLICATES), schemas.DUPLICATES, columns=columns)
    kept_ids = set(table.filter(table["keep"])["image_id"].to_pylist())
    kept = {row["key"]: row for row in rows if row["image_id"] in kept_ids}
    is_bad = pc.equal(table["reason"], BAD)
    bad = set(table.filter(is_bad)["image_id"].to_pylist()) & {row["image_id"] for row in rows}
    name = part.params["shard"]  # unique in the run, which the file's own name need not be
    source = Shard(int(part.name), name, context.path(part.inputs[3]))
    target = context.path(f"export/shards/{name}.tar")
    write_shard(target, _samples(source, kept))
    outputs = [f"export/shards/{name}.tar", f"export/shards/{name}_stats.json"]
    if source.metadata.is_file():
        metadata = read_foreign(source.metadata)
        keys = pc.cast(metadata["key"], pa.string())
        write_table(
            target.with_suffix(".parquet"),
            metadata.filter(pc.is_in(keys, pa.array(sorted(kept), pa.string()))),
        )
        outputs.append(f"export/shards/{name}.parquet")
    stats = {"count": len(kept), "successes": len(kept), "dropped": len(rows) - len(kept)}
    write_bytes(context.path(outputs[1]), json.dumps(stats, indent=1).encode())
    dropped = {"duplicate": len(rows) - len(kept) - len(bad), BAD: len(bad)}
    counts = {reason: count for reason, count in dropped.items() if count}
    return Outcome(tuple(outputs), len(rows), len(kept), counts)


def _samples(shard: Shard, kept: Mapping[str, Mapping[str, Any]]) -> list[dict[str, bytes | str]]:
    samples, _ = group_members(scan_tar(shard.path).require_sound(shard.path).members)
    chosen: list[dict[str, bytes | str]] = []
    with shard.path.open("rb") as handle:
        for key, sample in samples.items():
            if key in kept:
                members = {
                    member.name[len(key) + 1 :]: read_member(handle, member.offset, member.size)
                    for member in sample.members.values()
                }
                picture = members.get(kept[key]["member"][len(key) + 1 :], b"")
                if hashlib.sha256(picture).hexdigest() != kept[key]["sha256"]:
                    raise ShardCorrupt(
                        f"{shard.path}: {key} is not the picture that was scanned; dedup it again"
                    )
                chosen.append({"__key__": key, **members})
    if len(chosen) < len(kept):
        lost = min(kept.keys() - {str(sample["__key__"]) for sample in chosen})
        raise ShardCorrupt(f"{shard.path}: {lost} was scanned and is gone; dedup the shard again")
    return chosen


STAGE = Stage("export", 1, ("export",), plan, run)
