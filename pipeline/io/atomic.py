"""Files and folders that either exist whole or not at all.

A writer fills a temporary sibling, which is flushed to the disk and renamed into place; a process
killed at any moment leaves at most a sibling whose name starts with `.tmp-`, which the next run of
the same folder sweeps away. A rename is atomic on a local file system only; a folder that takes the
place of a folder needs two, and a process killed between them leaves neither.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import DiskFull

TEMPORARY_PREFIX = ".tmp-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes `path`, on any error it is removed.

    What was written may be a file or a folder. Raises DiskFull where the disk has no room.
    """
    temporary = _temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        _replace(temporary, path)
    except BaseException as error:
        remove(temporary)
        if is_disk_full(error):
            raise DiskFull(f"{path}: no room on the disk; free some and run again") from error
        raise
    _sync(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def sweep(folder: Path) -> int:
    """Remove what killed writers left under `folder`; return how many entries that were."""
    leftovers = list(folder.rglob(f"{TEMPORARY_PREFIX}*"))
    for entry in leftovers:
        remove(entry)
    return len(leftovers)


def is_disk_full(error: BaseException) -> bool:
    """Whether `error`, or what caused it, says that there is no room.

    PyArrow and libraries that wrap system errors keep the number in `errno` or in the text alone.
    """
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) in _FULL or "No space left on device" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _flush(path: Path) -> None:
    for entry in [*path.rglob("*"), path]:
        if not entry.is_symlink():
            _sync(entry)


def _replace(temporary: Path, path: Path) -> None:
    if temporary.is_dir() and path.is_dir():  # a folder cannot be renamed over one that has files
        retired = _temporary_beside(path)
        path.rename(retired)
        temporary.rename(path)
        remove(retired)
    else:
        temporary.replace(path)


def _temporary_beside(path: Path) -> Path:
    """A name that no other process has, on this host or another: process numbers repeat."""
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}-{path.name}")


def remove(path: Path) -> None:
    """Remove a file or a folder; one that is not there is no error."""
    is_folder = path.is_dir() and not path.is_symlink()
    delete: Callable[[Path], object] = shutil.rmtree if is_folder else Path.unlink
    try:
        delete(path)
    except FileNotFoundError:
        return


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some network file systems refuse to sync a folder: no harm done
            raise
    finally:
        os.close(descriptor)
