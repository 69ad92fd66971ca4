"""scan: shards in, one manifest row a picture out.

Each shard is walked strictly, joined with its Parquet on the key (rows of failed downloads are
there without a file), and every picture is decoded once. A row is accepted or has a reason;
nothing is dropped. `image_id` is assigned here, once.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.batches import batched
from pipeline.errors import ImageRejected, MissingInput, ShardCorrupt
from pipeline.ids import hash63, normalize_caption
from pipeline.increment import after_earlier, first_number
from pipeline.io import schemas
from pipeline.io.images import EXTENSIONS, ImageLimits, decode
from pipeline.io.remote import is_remote
from pipeline.io.runfolder import ACCEPTED, FETCHED, image_part, part_name
from pipeline.io.shards import Sample, Shard, find_shards, group_members, is_safe_key, read_member
from pipeline.io.tables import read_foreign, write_rows
from pipeline.io.tarscan import TarScan, scan_tar
from pipeline.ordered import ordered_map
from pipeline.runner.engine import NOT_DOWNLOADED
from pipeline.runner.part import Context, Outcome, Part, Stage, reject_counts, relative

Row = dict[str, Any]
_SAMPLES_AT_ONCE = 64
_METADATA = ("key", "caption", "url", "uid", "status", "error_message")


def plan(context: Context) -> list[Part]:
    """One part a shard, until `limit` rows are reached."""
    parts = []
    remaining = context.config.limit
    for shard in own_shards(context):
        if remaining is not None and remaining <= 0:
            break
        files = [path for path in (shard.path, shard.metadata, shard.stats) if path.is_file()]
        params = {"number": shard.number, "shard": shard.name, "limit": remaining}
        inputs = tuple(relative(path, context.run) for path in files)
        parts.append(Part(part_name(shard.number), inputs, params))
        if remaining is not None:
            remaining -= count_rows(shard)
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Write the manifest of one shard."""
    shard = Shard(part.params["number"], part.params["shard"], context.path(part.inputs[0]))
    rows, notes = scan_shard(shard, context)
    limit = part.params["limit"]
    rows = rows if limit is None else rows[:limit]
    dataset = context.config.dataset.name
    ids = assign_ids([row["key"] for row in rows], dataset, shard.name)
    for row, image_id in zip(rows, ids, strict=True):
        row |= {"image_id": image_id, "dataset": dataset, "shard": shard.name}
    output = image_part(part.name)
    write_rows(context.path(output), rows, schemas.IMAGES)
    rejected = reject_counts([row["reason"] for row in rows if row["status"] != ACCEPTED])
    return Outcome((output,), len(rows), len(rows) - sum(rejected.values()), rejected, notes)


def shards_of(context: Context) -> list[Shard]:
    """The training set's shards; those that the demo wrote where none are configured.

    Those of the run that this one was added to come first. Raises MissingInput where there are
    none, as in a run that was made from vectors.
    """
    if context.config.dataset.embeddings:
        raise MissingInput(f"{context.run}: made from vectors; it has no pictures to look at")
    patterns = context.config.dataset.shards or (str(context.run / "shards"),)
    local = [pattern for pattern in patterns if not is_remote(pattern)]
    if len(local) < len(patterns):  # the stage `fetch` has copied what is not here
        copied = [str(path) for path in sorted((context.run / FETCHED).glob("*/*.tar"))]
        if not copied:
            raise MissingInput(f"{context.run}: no shard was fetched; run the stage fetch first")
        local += copied
    return after_earlier(find_shards(local), shards_of, context)


def own_shards(context: Context) -> list[Shard]:
    """`shards_of` without those of the run that this one was added to."""
    first = first_number(context)
    return [shard for shard in shards_of(context) if shard.number >= first]


def image_limits(context: Context) -> ImageLimits:
    """What a picture may be, as configured."""
    scan = context.config.scan
    return ImageLimits(scan.formats, scan.max_pixels, scan.max_bytes)


def scan_shard(
    shard: Shard, context: Context, *, downloads: bool = True
) -> tuple[list[Row], tuple[str, ...]]:
    """All rows of a shard, sorted by key, with what a person should know about it.

    Without `downloads` the Parquet's column `status` is not read: pictures that were generated have
    one of another meaning.
    """
    config = context.config.scan
    scan = scan_tar(shard.path)
    if scan.damage and config.damaged == "fail":
        scan.require_sound(shard.path)
    samples, strays = group_members(scan.members)
    damage = f"shard_corrupt: {scan.damage}" if scan.damage else ""
    try:
        metadata = _read_metadata(shard.metadata, downloads=downloads)
    except ShardCorrupt as error:
        metadata = {}
        damage = damage or f"metadata_corrupt: {error}"
    limits = image_limits(context)

    def judged(keys: Sequence[str]) -> list[Row]:
        with shard.path.open("rb") as handle:
            return [
                _judge(handle, samples.get(key), metadata.get(key), key, limits, damage)
                for key in keys
            ]

    batches = batched(sorted({*samples, *metadata}), _SAMPLES_AT_ONCE)
    threads = context.config.runner.threads_per_part
    rows = [row for batch in ordered_map(judged, batches, threads) for row in batch]
    rows += [_stray(member.name, damage) for member in strays]
    for row in rows:
        row["caption"] = normalize_caption(row["caption"])[: config.max_caption_chars]
    return rows, tuple(_notes(shard, scan, len(samples)))


def _judge(
    handle: Any,
    sample: Sample | None,
    metadata: Mapping[str, Any] | None,
    key: str,
    limits: ImageLimits,
    damage: str,
) -> Row:
    row: Row = {"key": key, "caption": "", "status": "rejected", "reason": "", "detail": ""}
    for name in ("caption", "url", "uid"):
        value = (metadata or {}).get(name)
        row[name] = value if isinstance(value, str) else row.get(name)
    try:
        if metadata and metadata.get("status") not in (None, "success"):
            raise ImageRejected(NOT_DOWNLOADED, str(metadata.get("error_message") or ""))
        if damage:
            raise ImageRejected(*damage.split(": ", 1))
        if metadata and metadata.get("repeated"):
            raise ImageRejected("repeated_key", "the Parquet names this key more than once")
        _require_whole(sample, key)
        row |= _read_sample(handle, sample, row, limits) if sample else {}
        row |= {"status": ACCEPTED}
    except ImageRejected as rejection:
        row |= {"reason": rejection.reason, "detail": str(rejection)[:500]}
    return row


def _require_whole(sample: Sample | None, key: str) -> None:
    if sample is None:
        raise ImageRejected("missing_in_tar", "the Parquet says success, the tar has no file")
    if not is_safe_key(key):
        raise ImageRejected("bad_key", "a key of letters, digits, _ . - and / that stays inside")
    if not sample.adjacent:
        raise ImageRejected("not_adjacent", "other members lie between those of this key")
    if sample.repeated:
        raise ImageRejected("repeated_member", "two members have the same name")


def _read_sample(handle: Any, sample: Sample, row: Row, limits: ImageLimits) -> Row:
    caption = row["caption"]
    extension = next((name for name in EXTENSIONS if name in sample.members), None)
    if extension is None:
        found = ", ".join(sorted(sample.members))[:100]
        raise ImageRejected("no_picture", f"members {found}; read are {', '.join(EXTENSIONS)}")
    member = sample.members[extension]
    if member.size > limits.max_bytes:
        raise ImageRejected("too_many_bytes", f"{member.size} bytes, at most {limits.max_bytes}")
    data = read_member(handle, member.offset, member.size)
    picture = decode(data, limits)
    pixels = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes())
    if not caption:
        caption = _read_small(handle, sample, "txt").decode("utf-8", "replace")
    told = {} if row["uid"] and row["url"] and caption else _read_json(handle, sample)
    return {
        "caption": caption or told.get("caption", ""),
        "url": row["url"] or told.get("url"),
        "uid": row["uid"] or told.get("uid"),
        "member": member.name,
        "offset": member.offset,
        "size": member.size,
        "width": picture.width,
        "height": picture.height,
        "sha256": hashlib.sha256(data).hexdigest(),
        "pixel_sha256": pixels.hexdigest(),
    }


def _read_small(handle: Any, sample: Sample, extension: str) -> bytes:
    """A member's bytes; none where it is not there, or has a mebibyte or more."""
    member = sample.members.get(extension)
    if member is None or member.size >= 1 << 20:
        return b""
    return read_member(handle, member.offset, member.size)


def _read_json(handle: Any, sample: Sample) -> dict[str, str]:
    """The text fields of a sample's json, as DataComp has them; none where it is no object."""
    try:
        values = json.loads(_read_small(handle, sample, "json") or b"{}")
    except (ValueError, RecursionError):
        return {}
    found = values if isinstance(values, dict) else {}
    return {  # half a surrogate pair is JSON, but no text
        name: value.encode("utf-8", "replace").decode()
        for name, value in found.items()
        if isinstance(value, str)
    }


def _stray(name: str, damage: str) -> Row:
    reason, _, detail = damage.partition(": ")
    return {
        "key": name.encode("utf-8", "replace").decode("utf-8")[:200],
        "caption": "",
        "status": "rejected",
        "reason": reason or "irregular_member",
        "detail": detail or "a link, device, folder, or a name without an extension",
    }


def _read_metadata(path: Path, *, downloads: bool) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    rows: dict[str, dict[str, Any]] = {}
    columns = [name for name in _METADATA if downloads or name != "status"]
    for row in read_foreign(path, columns=columns).to_pylist():
        key = row.get("key")
        if key is None:
            raise ShardCorrupt(f"{path}: no column key")
        known = rows.setdefault(str(key), row)
        if known is not row:
            known["repeated"] = True
    return rows


def assign_ids(keys: Sequence[str], dataset: str, shard: str) -> list[int]:
    """An image id for each row of a shard, no two equal even where a key repeats."""
    taken: dict[int, None] = {}
    for key in keys:
        image_id = hash63("image", dataset, shard, key)
        salt = 0
        while image_id in taken:
            salt += 1
            image_id = salted_id(dataset, shard, key, salt)
        taken[image_id] = None
    return list(taken)


def salted_id(dataset: str, shard: str, key: str, salt: int) -> int:
    """The id of a row whose first id was taken."""
    return hash63("image", dataset, shard, key, "salt", salt)


def _notes(shard: Shard, scan: TarScan, samples: int) -> Iterator[str]:
    if scan.damage:
        yield f"{shard.path.name} is damaged at {scan.damage}; its rows are rejected"
    elif not scan.end_marked:
        yield f"{shard.path.name} has no end marker; its members are whole"
    successes = _successes(shard.stats)
    if successes is not None and successes != samples:
        yield f"{shard.stats.name} says {successes} successes, the tar has {samples} samples"


def _successes(path: Path) -> int | None:
    try:
        value = json.loads(path.read_text()).get("successes")
    except (OSError, ValueError, AttributeError):
        return None
    return value if isinstance(value, int) else None


def count_rows(shard: Shard) -> int:
    """Rows of the Parquet beside a shard, or samples of the tar where there is none."""
    try:
        return int(pq.read_metadata(shard.metadata).num_rows)
    except Exception:  # no Parquet, or a damaged one: the tar itself is counted
        return len(group_members(scan_tar(shard.path).members)[0])


STAGE = Stage("scan", 2, ("dataset", "scan"), plan, run, tolerant=True)
