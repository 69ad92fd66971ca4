"""Shards on an object store or a web server, by fsspec: listed, and copied whole.

The store's own entity tag (or time of change) goes along, so that a shard that was replaced is
noticed, also while it is copied. Nothing is streamed: a shard is read in several passes, and
webdataset gets local files. A broken connection is tried again.
"""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from pipeline.errors import MissingInput, ShardCorrupt, UnmemorizeError, UsageError, first_line
from pipeline.io.atomic import atomic_path, is_disk_full
from pipeline.io.shards import expand_braces

PROTOCOLS = ("s3", "gs", "gcs", "az", "abfs", "hf", "http", "https", "memory")
_VERSION = (
    *("ETag", "etag", "LastModified", "last_modified", "Last-Modified"),
    *("updated", "mtime", "created"),
)
_MARKED_ALIKE = ("s3", "http", "https")
"""Where a file is known to be marked in the same way alone and in a listing."""
_TRIES = 5
_WAIT = wait_random_exponential(multiplier=0.5, max=30)
_REQUESTS_AT_ONCE = 16
_GONE = (403, 404, 410)
_OVERLOADED = (408, 429)
_SILENCE_S = 60.0


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
    """Copy a file, whole or not at all, and in the version that was listed.

    Raises MissingInput where it cannot be had or was replaced, ShardCorrupt where less comes than
    the store says.
    """
    filesystem, path = _open(file.url)
    tries = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(_TRIES),
        wait=_WAIT,
        reraise=True,
    )
    with atomic_path(target) as temporary, _named(file.url):
        tries(_copy, filesystem, path, file, temporary)


def _copy(filesystem: Any, path: str, file: RemoteFile, temporary: Path) -> None:
    filesystem.get_file(path, str(temporary))
    size = temporary.stat().st_size
    filesystem.invalidate_cache()  # of what was listed before
    now = _file(filesystem, path, filesystem.info(path))
    marked_alike = file.url.partition("://")[0] in _MARKED_ALIKE
    if now.size != file.size or (marked_alike and now.version != file.version):
        raise MissingInput(f"{file.url}: replaced since it was listed; run again")
    if size != file.size:
        raise _Short(f"{file.url}: {size} bytes came, {file.size} were listed")


class _Short(ShardCorrupt):
    """Less came than was listed: a connection that ended too early."""


def _may_pass(error: BaseException) -> bool:
    """Whether another try may succeed."""
    if isinstance(error, _Short):
        return True
    if isinstance(error, UnmemorizeError | FileNotFoundError | PermissionError | ImportError):
        return False
    status = getattr(error, "status", None)  # aiohttp's
    if isinstance(status, int) and status < 500:
        return status in _OVERLOADED
    return type(error).__name__ != "NoCredentialsError" and not is_disk_full(error)


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn whatever a store raises into MissingInput: each has errors of its own."""
    try:
        yield
    except UnmemorizeError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise
        raise MissingInput(f"{url}: {first_line(error)}") from error


def _shards_at(address: str) -> list[RemoteShard]:
    if "::" in address:
        raise UsageError(f"{address}: chained addresses are not read")
    urls = expand_braces(address)
    filesystem, _ = _open(urls[0])
    filesystem.invalidate_cache()
    with _named(address):
        tars = {url: _tars_at(filesystem, _open(url)[1]) for url in urls}
        files = _files(filesystem, sorted({tar for some in tars.values() for tar in some}))
    for url, some in tars.items():
        if not any(tar in files for tar in some):
            raise MissingInput(f"{url}: no .tar file there")
    shards = []
    for tar in sorted(files.keys() & {tar for some in tars.values() for tar in some}):
        beside = tuple(files[name] for name in _names(tar) if name in files)
        shards.append(RemoteShard(beside[0].url, beside))
    return shards


def _tars_at(filesystem: Any, path: str) -> list[str]:
    """Paths of the tars that a glob, a folder or a tar stands for."""
    if any(letter in path for letter in "*?["):
        tars = [str(hit) for hit in filesystem.glob(path)]
    elif path.endswith(".tar"):
        return [path]
    else:
        try:
            tars = [str(entry["name"]) for entry in filesystem.ls(path, detail=True)]
        except FileNotFoundError as error:
            if not _absent(error):
                raise
            tars = []
    return [tar for tar in tars if tar.endswith(".tar")]


def _files(filesystem: Any, tars: Collection[str]) -> dict[str, RemoteFile]:
    """The tars that are there and what lies beside them, by path."""
    known: dict[str, dict[str, Any]] = {}
    for folder in sorted({tar.rsplit("/", 1)[0] for tar in tars}):  # not three requests a shard
        try:
            known |= {str(entry["name"]): entry for entry in filesystem.ls(folder, detail=True)}
        except Exception:  # noqa: S112  a store may let files be read and not folders: asked below
            continue
    wanted = [name for tar in tars for name in _names(tar) if name in known or tar not in known]
    unsure = [name for name in wanted if not isinstance(known.get(name, {}).get("size"), int)]
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        asked = pool.map(lambda name: _info(filesystem, name), unsure)
        known |= {name: entry for name, entry in zip(unsure, asked, strict=True) if entry}
    found = [name for name in wanted if isinstance(known.get(name, {}).get("size"), int)]
    for name in set(wanted) & known.keys() - set(found):
        raise MissingInput(f"{name}: the store does not tell its size")
    return {name: _file(filesystem, name, known[name]) for name in found}


def _names(tar: str) -> tuple[str, str, str]:
    stem = tar.removesuffix(".tar")
    return tar, f"{stem}.parquet", f"{stem}_stats.json"


def _info(filesystem: Any, path: str) -> dict[str, Any] | None:
    """What a store says of a file; None where there is none."""
    try:
        entry: dict[str, Any] = filesystem.info(path)
    except (FileNotFoundError, PermissionError) as error:  # S3 refuses what is not there, too
        if not _absent(error):
            raise
        return None
    return entry


def _absent(error: BaseException) -> bool:
    """Whether a file is not there; over HTTP fsspec says so of a server that does not answer."""
    cause = error.__cause__
    if cause is None or hasattr(cause, "response"):  # botocore's
        return True
    return getattr(cause, "status", None) in _GONE


def _file(filesystem: Any, path: str, entry: dict[str, Any]) -> RemoteFile:
    version = next((str(entry[name]) for name in _VERSION if entry.get(name)), "")
    if not isinstance(entry.get("size"), int):
        raise MissingInput(f"{path}: the store does not tell its size")
    return RemoteFile(str(filesystem.unstrip_protocol(path)), entry["size"], version)


def _open(url: str) -> tuple[Any, str]:
    try:
        options = _http_options() if url.startswith("http") else {}
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise UsageError(f"{url}: {first_line(error)}") from error
    except Exception as error:
        raise MissingInput(f"{url}: {first_line(error)}") from error
    return filesystem, str(path)


def _http_options() -> dict[str, Any]:
    """By default a file has five minutes in all, however large it is."""
    try:
        import aiohttp  # noqa: PLC0415  optional, as every store's driver
    except ImportError as error:
        raise ImportError("Install aiohttp to access HTTP") from error
    quiet = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
    return {"client_kwargs": {"timeout": quiet}}
