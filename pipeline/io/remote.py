"""Shards on an object store, by fsspec: listed, and copied whole.

The store's own entity tag (or time of change) goes along, so that a shard that was replaced is
noticed. Nothing is streamed: a shard is read in several passes, and webdataset gets local files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from pipeline.errors import MissingInput, ShardCorrupt, UsageError, first_line
from pipeline.io.atomic import atomic_path
from pipeline.io.shards import expand_braces

PROTOCOLS = ("s3", "gs", "gcs", "az", "abfs", "hf", "memory")
_VERSION = ("ETag", "etag", "LastModified", "last_modified", "updated", "mtime", "created")


@dataclass(frozen=True)
class RemoteFile:
    """One file: its address, its size in bytes, and the store's mark of this version of it."""

    url: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class RemoteShard:
    """A tar with the Parquet and the statistics beside it, where they are."""

    url: str
    files: tuple[RemoteFile, ...]

    @property
    def folder(self) -> str:
        """The address of the folder that the tar lies in."""
        return self.url.rsplit("/", 1)[0]


def is_remote(address: str) -> bool:
    """Whether shards at this address are copied before they are read."""
    return address.partition("://")[0] in PROTOCOLS and "://" in address


def list_shards(addresses: list[str]) -> list[RemoteShard]:
    """The shards at folders, globs and braces, by address.

    Raises MissingInput where there is none or the store refuses, UsageError where fsspec has no
    driver for it.
    """
    found = {shard.url: shard for address in addresses for shard in _shards_at(address)}
    return [found[url] for url in sorted(found)]


def fetch(file: RemoteFile, target: Path) -> None:
    """Copy a file, whole or not at all; raises ShardCorrupt where the size is not as listed."""
    filesystem, path = _open(file.url)
    with atomic_path(target) as temporary:
        try:
            filesystem.get_file(path, str(temporary))
        except Exception as error:  # every store has errors of its own
            raise MissingInput(f"{file.url}: {first_line(error)}") from error
        size = temporary.stat().st_size
        if size != file.size:
            raise ShardCorrupt(f"{file.url}: {size} bytes came, {file.size} were listed")


def _shards_at(address: str) -> list[RemoteShard]:
    if "::" in address:
        raise UsageError(f"{address}: chained addresses are not read")
    shards: list[RemoteShard] = []
    for url in expand_braces(address):
        filesystem, path = _open(url)
        try:
            here = list(_tars(filesystem, path))
        except FileNotFoundError:
            here = []
        except Exception as error:  # every store has errors of its own
            raise MissingInput(f"{url}: {first_line(error)}") from error
        if not here:
            raise MissingInput(f"{url}: no .tar file there")
        shards += here
    return shards


def _tars(filesystem: Any, path: str) -> Iterator[RemoteShard]:
    if any(letter in path for letter in "*?["):
        tars = [str(hit) for hit in filesystem.glob(path)]
    elif path.endswith(".tar"):
        tars = [path]
    else:
        tars = [str(entry["name"]) for entry in filesystem.ls(path, detail=True)]
    tars = sorted(tar for tar in tars if tar.endswith(".tar"))
    known: dict[str, dict[str, Any]] = {}
    for folder in sorted({tar.rsplit("/", 1)[0] for tar in tars}):  # not three requests a shard
        known |= {str(entry["name"]): entry for entry in filesystem.ls(folder, detail=True)}
    for tar in tars:
        stem = tar.removesuffix(".tar")
        names = (tar, f"{stem}.parquet", f"{stem}_stats.json")
        if tar in known:
            files = tuple(_file(filesystem, name, known[name]) for name in names if name in known)
            yield RemoteShard(files[0].url, files)


def _file(filesystem: Any, path: str, entry: dict[str, Any]) -> RemoteFile:
    version = next((str(entry[name]) for name in _VERSION if entry.get(name)), "")
    if not isinstance(entry.get("size"), int):
        raise MissingInput(f"{path}: the store does not tell its size")
    return RemoteFile(str(filesystem.unstrip_protocol(path)), entry["size"], version)


def _open(url: str) -> tuple[Any, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{url}: {first_line(error)}") from error
    except Exception as error:
        raise MissingInput(f"{url}: {first_line(error)}") from error
    return filesystem, str(path)
