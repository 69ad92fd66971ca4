"""SHA-256 of files, remembered by size and modification time."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

from pipeline.io.atomic import write_bytes

_BLOCK = 1 << 20


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the names and digests of a folder's files, as hex."""
    if path.is_dir():
        return _sha256_folder(path)
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_once(path: Path) -> str:
    """`sha256_file`, read again in this process only where sizes or times have changed."""
    return _sha256_by_stamp(path, _stamp(path))


@lru_cache(maxsize=256)
def _sha256_by_stamp(path: Path, stamp: str) -> str:
    del stamp  # a key only
    return sha256_file(path)


def canonical_sha256(value: object) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def files_under(folder: Path) -> list[Path]:
    """Every file below `folder`, sorted; links to folders are followed, as readers follow them."""
    walk = os.walk(folder, followlinks=True)
    paths = (Path(at, name) for at, _, names in walk for name in names)
    return sorted(path for path in paths if path.is_file())


class DigestCache:
    """Digests of files whose size and modification time have not changed since they were read.

    Only a shortcut: `verify=True` reads every file again. Nothing in a run's results depends on
    it, so it may be deleted at any time.
    """

    def __init__(self, path: Path, *, verify: bool = False) -> None:
        self._path = path
        self._verify = verify
        self._fresh: set[str] = set()
        self._known: dict[str, list[str]] = {}
        if path.is_file():
            self._known = _read_known(path)

    def sha256(self, path: Path) -> str:
        """SHA-256 of `path`, from the cache where its size and times are those remembered."""
        name = str(path.resolve())
        stamp = _stamp(path)
        known = self._known.get(name)
        trusted = not self._verify or name in self._fresh
        if trusted and known is not None and known[0] == stamp:
            return known[1]
        digest = sha256_file(path) if self._verify else sha256_once(path)
        self._known[name] = [stamp, digest]
        self._fresh.add(name)
        return digest

    def save(self) -> None:
        """Write the cache beside the receipts."""
        write_bytes(self._path, json.dumps(self._known, sort_keys=True).encode())


def _read_known(path: Path) -> dict[str, list[str]]:
    try:
        entries = json.loads(path.read_text()).items()
    except (ValueError, AttributeError):  # a cache that cannot be read is a cache miss
        return {}
    return {
        name: entry
        for name, entry in entries
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(x, str) for x in entry)
    }


def _stamp(path: Path) -> str:
    files = files_under(path) if path.is_dir() else [path]
    stats = [(str(p.relative_to(path)), p.stat()) for p in files]
    return canonical_sha256([[name, s.st_size, s.st_mtime_ns, s.st_ino] for name, s in stats])


def _sha256_folder(folder: Path) -> str:
    files = files_under(folder)
    return canonical_sha256([[p.relative_to(folder).as_posix(), sha256_file(p)] for p in files])
