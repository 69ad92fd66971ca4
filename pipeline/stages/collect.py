"""collect: pictures that another generator made in, a manifest row a picture out.

A GAN or an API leaves a folder of pictures, or tars. Each file is decoded once; it is accepted or
has a reason, as the pictures of a training set. Nothing is copied yet: `regroup` does that, when
it is known which pictures have the same caption.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.batches import batched
from pipeline.errors import ImageRejected
from pipeline.ids import hash63, normalize_caption, prompt_id
from pipeline.io import schemas
from pipeline.io.given_pictures import (
    MAX_SIDECAR,
    GivenPictures,
    PictureFile,
    find_given,
    read_sidecars,
    read_told,
)
from pipeline.io.images import ImageLimits, decode, is_animated, read_picture_file
from pipeline.io.runfolder import ACCEPTED, part_name
from pipeline.io.shards import Shard, group_members, read_member
from pipeline.io.tables import read_parts, read_table, write_rows
from pipeline.io.tarscan import scan_tar
from pipeline.runner.part import Context, Outcome, Part, Stage, reject_counts, relative
from pipeline.stages.scan import count_rows, image_limits, scan_shard

Row = dict[str, Any]
COLLECTED = "collected/part-{}.parquet"
MOST_OF_A_CAPTION = 1000
"""A text that more pictures share is the name of a class: no caption's verdict is made of it, and
each picture is judged alone. The clique of a caption takes all distances between its pictures."""
_FILES_PER_PART = 1000
_TOLD = ("txt", "json")


def plan(context: Context) -> list[Part]:
    """One part a tar, or a block of files, until `limit` pictures are reached."""
    found = find_given(str(context.config.generate.folder))
    remaining = context.config.limit
    parts: list[Part] = []
    sources: list[Shard | tuple[PictureFile, ...]] = [*found.shards]
    sources += batched(found.files, _FILES_PER_PART)
    for source in sources:
        if remaining is not None and remaining <= 0:
            break
        name = part_name(len(parts))
        if isinstance(source, Shard):
            files = [path for path in (source.path, source.metadata) if path.is_file()]
            params: Row = {"shard": source.name, "number": source.number, "limit": remaining}
            rows = 0 if remaining is None else count_rows(source)
        else:
            block = source[:remaining]
            files = list(_paths(found.root, block))
            params = {"root": str(found.root), "files": [[f.key, *f.sidecars] for f in block]}
            rows = len(block)
        params["others"] = _others(found) if not parts else ""
        parts.append(Part(name, tuple(relative(path, context.run) for path in files), params))
        remaining = None if remaining is None else remaining - rows
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Look at every picture of one tar, or of one block of files."""
    notes: tuple[str, ...] = (part.params["others"],) if part.params["others"] else ()
    if "shard" in part.params:
        path = context.path(part.inputs[0])
        shard = Shard(part.params["number"], part.params["shard"], path)
        rows, said = _of_shard(shard, context)
        rows, notes = rows[: part.params["limit"]], (*notes, *said)
    else:
        root = Path(part.params["root"])
        files = [PictureFile(key, tuple(beside)) for key, *beside in part.params["files"]]
        rows = [_of_file(root, file, context) for file in files]
    for row in rows:
        _finish(row, context)
    output = COLLECTED.format(part.name)
    write_rows(context.path(output), rows, schemas.COLLECTED)
    rejected = reject_counts([row["reason"] for row in rows if row["status"] != ACCEPTED])
    return Outcome((output,), len(rows), len(rows) - sum(rejected.values()), rejected, notes)


def list_collected(context: Context) -> list[str]:
    """The manifest's parts, relative to the run folder, in order."""
    pattern = COLLECTED.format("*")
    found = sorted(context.run.glob(pattern))
    return [path.relative_to(context.run).as_posix() for path in found]


def class_names(manifest: pa.Table) -> set[int]:
    """Prompt ids that too many accepted rows (`prompt_id`, `status`) share to be a caption."""
    ids = manifest.filter(pa.compute.equal(manifest["status"], ACCEPTED))["prompt_id"]
    counts = Counter(ids.drop_null().to_pylist())
    return {found for found, count in counts.items() if count > MOST_OF_A_CAPTION}


def collected_captions(context: Context) -> list[str]:
    """The captions of accepted pictures, each once, sorted; names of classes left out."""
    paths = [context.path(name) for name in list_collected(context)]
    table = read_parts(paths, schemas.COLLECTED, columns=["prompt_id", "caption", "status"])
    classes = class_names(table)
    rows = table.filter(pa.compute.equal(table["status"], ACCEPTED)).to_pylist()
    known = {row["caption"] for row in rows if row["prompt_id"] not in {None, *classes}}
    return sorted(known)


def read_picture(row: Row, root: Path, shards: dict[str, Path]) -> bytes:
    """The bytes of a manifest row's picture, from a file under `root` or one of the tars."""
    if not row["shard"]:
        return (root / row["key"]).read_bytes()
    with shards[row["shard"]].open("rb") as handle:
        return read_member(handle, row["offset"], row["size"])


def read_collected(context: Context, name: str) -> list[Row]:
    """The rows of one part of the manifest."""
    return list(read_table(context.path(name), schemas.COLLECTED).to_pylist())


def _of_shard(shard: Shard, context: Context) -> tuple[list[Row], tuple[str, ...]]:
    scanned, notes = scan_shard(shard, context, downloads=False)
    samples, _ = group_members(scan_tar(shard.path).members)
    names = ("key", "member", "offset", "size", "caption", "width", "height", "sha256")
    rows = []
    with shard.path.open("rb") as handle:
        for found in scanned:
            row: Row = {name: found.get(name) for name in (*names, "status", "reason", "detail")}
            row["shard"] = shard.name
            if row["status"] == ACCEPTED:
                members = samples[row["key"]].members
                beside = {
                    kind: read_member(handle, members[kind].offset, members[kind].size)
                    for kind in _TOLD
                    if kind in members and members[kind].size <= MAX_SIDECAR
                }
                told = read_told(beside)
                row |= {"caption": row["caption"] or told.caption, "seed": told.seed}
                data = read_member(handle, row["offset"], row["size"])
                row |= _moving(data, image_limits(context))
            rows.append(row)
    return rows, notes


def _of_file(root: Path, file: PictureFile, context: Context) -> Row:
    plain = file.key.encode("utf-8", "backslashreplace").decode()
    row: Row = {"shard": "", "key": plain, "caption": "", "status": "rejected", "detail": ""}
    try:
        if plain != file.key:
            raise ImageRejected("bad_key", "the name is not UTF-8")
        data = read_picture_file(root / file.key, image_limits(context))
        picture = decode(data, image_limits(context))
        told = read_told(read_sidecars(root, file))
        row |= {"size": len(data), "width": picture.width, "height": picture.height}
        row |= {"sha256": hashlib.sha256(data).hexdigest(), "seed": told.seed}
        row |= {"caption": told.caption, "status": ACCEPTED, "reason": ""}
        row |= _moving(data, image_limits(context))
    except ImageRejected as rejection:
        row |= {"reason": rejection.reason, "detail": str(rejection)[:500]}
    return row


def _moving(data: bytes, limits: ImageLimits) -> Row:
    """A rejection of what holds several pictures: which of them would the generator answer for?"""
    if not is_animated(data, limits):
        return {}
    detail = "several frames; give each as a picture"
    return {"status": "rejected", "reason": "animated", "detail": detail}


def _finish(row: Row, context: Context) -> None:
    """Ids of the picture and of its caption; both depend on names and bytes, not on the order."""
    caption = normalize_caption(row["caption"] or "")[: context.config.scan.max_caption_chars]
    row["caption"] = caption
    row["prompt_id"] = prompt_id(caption) if caption else None
    row["generation_id"] = hash63("given", row["shard"], row["key"], row.get("sha256"))


def _paths(root: Path, files: Iterable[PictureFile]) -> Iterator[Path]:
    for file in files:
        picture = root / file.key
        if picture.is_file():  # a link to nowhere is a row that cannot be read
            yield picture
        yield from (picture.with_suffix(suffix) for suffix in file.sidecars)


def _others(found: GivenPictures) -> str:
    if not found.others:
        return ""
    return f"not a picture, left alone: {found.others[0]!a}, one of {len(found.others)} such files"


STAGE = Stage("collect", 1, ("scan",), plan, run, tolerant=True)
