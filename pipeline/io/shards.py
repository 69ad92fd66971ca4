"""Webdataset shards in the img2dataset layout: found, grouped, read and written.

A shard is NNNNN.tar with NNNNN.parquet and NNNNN_stats.json beside it. Members that share a name up
to the first dot are one sample. Only shards that the strict scan has passed are given to
webdataset, as open files: its own URL handling would run `pipe:` addresses in a shell.
"""

import glob
import io
import json
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import webdataset as wds
from webdataset.tariterators import group_by_keys, tar_file_iterator

from pipeline.errors import MissingInput, ShardCorrupt, UsageError, first_line
from pipeline.io.atomic import atomic_path, write_bytes
from pipeline.io.images import EXTENSIONS
from pipeline.io.tables import write_table
from pipeline.io.tarscan import Member

_NAME = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<extension>[^/_][^/]*)", re.DOTALL)
_KEY = re.compile(r"[A-Za-z0-9_./-]{1,200}")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MAX_EXPANSION = 1_000_000
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Shard:
    """One tar: its `number` orders it in the run, its `name` is unique and goes into image ids."""

    number: int
    name: str
    path: Path

    @property
    def metadata(self) -> Path:
        """The Parquet beside the tar, which may not exist."""
        return self.path.with_suffix(".parquet")

    @property
    def stats(self) -> Path:
        """The statistics beside the tar, which may not exist."""
        return self.path.with_name(f"{self.path.stem}_stats.json")


def find_shards(patterns: Sequence[str]) -> list[Shard]:
    """Expand folders, globs and braces to shards in sorted order.

    Raises MissingInput where a pattern matches nothing, UsageError for a kind of address that is
    not read.
    """
    paths: list[Path] = []
    for pattern in patterns:
        found = sorted(_expand(pattern))
        if not found:
            raise MissingInput(f"{pattern}: no .tar file there{_what_is_there(pattern)}")
        paths += found
    # a file that is a link keeps its name: in a hub snapshot the target has no suffix or neighbours
    unique = sorted({path.parent.resolve() / path.name for path in paths})
    names = unique_names(
        [path.stem for path in unique], [f"{path.parent.name}-{path.stem}" for path in unique]
    )
    return [Shard(i, name, path) for i, (name, path) in enumerate(zip(names, unique, strict=True))]


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name at the first dot of its last part, as webdataset does.

    None for a name without an extension, a hidden file, and extensions that start with _, which
    are webdataset's own fields.
    """
    match = _NAME.fullmatch(name)
    return (match["key"], match["extension"].lower()) if match else None


def is_safe_key(key: str) -> bool:
    """Whether a key is short, plain and stays inside its folder."""
    plain = _KEY.fullmatch(key) is not None and not key.startswith("__")  # webdataset's own names
    return plain and not key.startswith("/") and ".." not in key.split("/")


@dataclass
class Sample:
    """The members of one key, by extension; `adjacent` is False where others lie between them."""

    key: str
    members: dict[str, Member]
    adjacent: bool = True
    repeated: bool = False


def group_members(members: Sequence[Member]) -> tuple[dict[str, Sample], list[Member]]:
    """Group regular members into samples by key; return the members that belong to none too."""
    samples: dict[str, Sample] = {}
    strays: list[Member] = []
    last = None
    for member in members:
        parts = split_name(member.name)
        if parts is None or not member.regular:
            strays.append(member)
            continue
        key, extension = parts
        sample = samples.get(key)
        if sample is None:
            sample = samples[key] = Sample(key, {})
        elif last != key:
            sample.adjacent = False
        sample.repeated |= extension in sample.members
        sample.members.setdefault(extension, member)
        last = key
    return samples, strays


def read_member(handle: io.BufferedIOBase, offset: int, size: int) -> bytes:
    """The bytes of one member, by its place in the tar."""
    handle.seek(offset)
    data = handle.read(size)
    if len(data) != size:
        raise ShardCorrupt(f"byte {offset}: {size} bytes expected, {len(data)} found")
    return data


def iterate_samples(path: Path, keys: Collection[str]) -> Iterator[dict[str, Any]]:
    """Samples of a shard by webdataset (`__key__` and extension: bytes), those of `keys` only.

    The scan has passed these keys: each is one run of members without a repeated name. Raises
    ShardCorrupt where the file is no longer what was scanned.
    """
    with path.open("rb") as stream:
        files = (
            entry | {"__url__": path.name}
            for entry in tar_file_iterator(stream)
            if (split_name(entry["fname"]) or ("",))[0] in keys
        )
        try:
            yield from group_by_keys(files)
        except (tarfile.TarError, ValueError) as error:
            raise ShardCorrupt(f"{path}: not as it was scanned ({first_line(error)})") from error


def picture_bytes(sample: Mapping[str, Any]) -> bytes:
    """The bytes of a sample's picture; none where it has none."""
    return next((bytes(sample[name]) for name in EXTENSIONS if name in sample), b"")


def write_shard(path: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """Write samples (`__key__` and extension: bytes) as a tar with the same bytes every time."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        writer = wds.TarWriter(stream, encoder=False, mtime=0, user="root", group="root")
        for sample in samples:
            writer.write(dict(sample))
        writer.close()


def write_shard_tables(path: Path, table: pa.Table, stats: Mapping[str, Any]) -> None:
    """Write the Parquet and the statistics that lie beside the tar at `path`."""
    write_table(path.with_suffix(".parquet"), table)
    text = json.dumps(dict(stats), sort_keys=True, indent=2)
    write_bytes(path.with_name(f"{path.stem}_stats.json"), text.encode())


def _expand(pattern: str) -> list[Path]:
    paths: list[Path] = []
    places = local_places(pattern)
    for place in places:
        hits = list(place.glob("*.tar")) if place.is_dir() else matching(place)
        if not hits and len(places) > 1:
            raise MissingInput(f"{place}: no such shard")
        paths += [hit for hit in hits if hit.suffix == ".tar" and hit.is_file()]
    return paths


def _what_is_there(pattern: str) -> str:
    """What a person may have meant, where it is not a shard."""
    hits = [hit for place in local_places(pattern) for hit in matching(place)]
    folders = [hit for hit in hits if hit.is_dir()]
    files = [*hits, *(path for folder in folders for path in sorted(folder.iterdir())[:1000])]
    names = [path.name for path in files]
    if any((folder / "img_emb").is_dir() for folder in folders):
        return ", but embeddings; give them without any shard"
    if any(name.startswith("img_emb_") for name in names):
        return "; give the folder that holds img_emb and metadata"
    if any(name.endswith("_stats.json") for name in names):
        return ", but statistics of img2dataset; run it with --output_format webdataset"
    if any(name.lower().endswith(_PICTURES) for name in names):
        return ", but pictures; pack them into tars, as img2dataset does"
    if tables := [path for path in files if path.suffix == ".parquet"]:
        return f", and no column embedding in {tables[0].name}"
    return ""


def local_places(pattern: str) -> list[Path]:
    """The paths that an address names, its braces expanded.

    Raises UsageError for a kind of address that is not read.
    """
    if pattern.startswith("pipe:"):
        raise UsageError(f"{pattern}: addresses that run a command are never read")
    if "://" in pattern and not pattern.startswith("file://"):
        raise UsageError(f"{pattern}: not read from there; copy it to a folder")
    return [Path(name) for name in expand_braces(pattern.removeprefix("file://"))]


def matching(place: Path) -> list[Path]:
    """The path itself where it is there, for its name may hold brackets; else as a glob."""
    if place.exists():
        return [place]
    return [Path(hit) for hit in glob.glob(str(place))]  # noqa: PTH207  patterns may be absolute


def expand_braces(pattern: str) -> list[str]:
    """Expand `{00..12}` and `{a,b}` as a shell does, zeros kept."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    body = match[1]
    bounds = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", body)
    if bounds:
        first, last = int(bounds[1]), int(bounds[2])
        if last - first >= _MAX_EXPANSION:
            raise UsageError(f"{pattern}: more than {_MAX_EXPANSION} shards")
        values = [f"{i:0{len(bounds[1])}d}" for i in range(first, last + 1)]
    else:
        values = body.split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    expanded: list[str] = []
    for value in values:
        expanded += expand_braces(head + value + tail)
        if len(expanded) > _MAX_EXPANSION:
            raise UsageError(f"{pattern}: more than {_MAX_EXPANSION} shards")
    return expanded


def unique_names(short: Sequence[str], longer: Sequence[str]) -> list[str]:
    """The short names where no two are equal, else the longer ones, which name the folders too."""
    for names in (short, longer):
        if len(set(names)) == len(names):
            return list(names)
    twice = next(name for name in longer if longer.count(name) > 1)
    raise UsageError(f"{twice}: two folders and files are named so; rename one of the folders")
