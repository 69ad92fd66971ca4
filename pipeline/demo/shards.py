"""The demo's shards, as img2dataset writes them: KEY.jpg, KEY.txt, KEY.json, a table, counts.

Equal rows give equal bytes.
"""

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.io.shards import write_shard, write_shard_tables

SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("caption", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("sha256", pa.string()),
        ("uid", pa.string()),
    ]
)


@dataclass(frozen=True)
class Row:
    """One row of a set. `picture` holds the encoded JPEG; None where the download failed."""

    url: str
    caption: str
    uid: str
    picture: bytes | None
    original_size: tuple[int, int] | None = None
    status: str = "success"
    error_message: str | None = None


def write_shards(folder: Path, rows: Sequence[Row], per_shard: int) -> list[str]:
    """Write 00000.tar, .parquet and _stats.json, 00001.tar ... and give each row's key."""
    folder.mkdir(parents=True, exist_ok=True)
    keys: list[str] = []
    for shard, start in enumerate(range(0, len(rows), per_shard)):
        part = rows[start : start + per_shard]
        names = [f"{shard:05d}{i:04d}" for i in range(len(part))]
        _write_shard(folder / f"{shard:05d}", dict(zip(names, part, strict=True)))
        keys += names
    return keys


def _write_shard(stem: Path, rows: dict[str, Row]) -> None:
    records = {key: _record(key, row) for key, row in rows.items()}
    samples = [
        {
            "__key__": key,
            "jpg": row.picture,
            "txt": row.caption.encode(),
            "json": json.dumps(records[key], separators=(",", ":")).encode(),
        }
        for key, row in rows.items()
        if row.picture is not None
    ]
    table = pa.Table.from_pylist(list(records.values()), schema=SCHEMA)
    tar = stem.with_suffix(".tar")
    write_shard(tar, samples)
    write_shard_tables(tar, table, _stats(list(rows.values())))


def _record(key: str, row: Row) -> dict[str, Any]:
    record: dict[str, Any] = {name: None for name in SCHEMA.names}
    record |= {"url": row.url, "caption": row.caption, "key": key, "uid": row.uid}
    record |= {"status": row.status, "error_message": row.error_message}
    if row.original_size is not None:
        record["original_width"], record["original_height"] = row.original_size
    if row.picture is not None:
        record["width"], record["height"] = Image.open(io.BytesIO(row.picture)).size
        record["sha256"] = hashlib.sha256(row.picture).hexdigest()
    return record


def _stats(rows: Sequence[Row]) -> dict[str, Any]:
    statuses = Counter(row.status for row in rows)
    outcomes = Counter(row.error_message or "success" for row in rows)
    return {
        "count": len(rows),
        "successes": statuses["success"],
        "failed_to_download": statuses["failed_to_download"],
        "failed_to_resize": statuses["failed_to_resize"],
        "status_dict": dict(sorted(outcomes.items())),
    }


def read_shards(folder: Path) -> dict[str, Row]:
    """The rows that have a picture, by key, in shard order. For shards that this module wrote."""
    rows: dict[str, Row] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
        for name, content in members.items():
            if name.endswith(".json"):
                record = json.loads(content)
                rows[record["key"]] = Row(
                    url=record["url"],
                    caption=record["caption"],
                    uid=record["uid"],
                    picture=members[name.replace(".json", ".jpg")],
                    original_size=(record["original_width"], record["original_height"]),
                )
    return rows


def read_failures(folder: Path) -> list[Row]:
    """The rows that the tables list without a picture."""
    records = [r for path in sorted(folder.glob("[0-9]*.parquet")) for r in _records(path)]
    return [
        Row(r["url"], r["caption"], r["uid"], None, None, r["status"], r["error_message"])
        for r in records
        if r["status"] != "success"
    ]


def _records(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path, schema=SCHEMA).to_pylist())


def uid_of(name: str) -> str:
    """A uid as the DataComp sets have them: 32 hexadecimal digits, of the row's own name."""
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    """Baseline JPEG, chroma at half resolution, as most pictures on the web."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)
    return buffer.getvalue()


def decode(picture: bytes) -> Image.Image:
    """The RGB picture of a row."""
    return Image.open(io.BytesIO(picture)).convert("RGB")


def thumbnail(picture: Image.Image, side: int = 32) -> npt.NDArray[np.float32]:
    """(side, side, 3) RGB on [0, 1], each pixel the mean of what it covers."""
    small = picture.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / np.float32(255)
