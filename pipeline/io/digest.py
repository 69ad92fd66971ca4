"""SHA-256 of files, remembered by size and modification time."""

import hashlib
import json
from pathlib import Path

from pipeline.io.atomic import write_bytes

_BLOCK = 1 << 20


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's sorted relative names and bytes, as hex."""
    if path.is_dir():
        return _sha256_folder(path)
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def canonical_sha256(value: object) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class DigestCache:
    """Digests of files whose size and modification time have not changed since they were read.

    Only a shortcut: `verify=True` reads every file again. Nothing in a run's results depends on
    it, so it may be deleted at any time.
    """

    def __init__(self, path: Path, *, verify: bool = False) -> None:
        self._path = path
        self._verify = verify
        self._fresh: set[str] = set()
        self._known: dict[str, list[object]] = {}
        if path.is_file():
            try:
                self._known = json.loads(path.read_text())
            except ValueError:  # a cache that cannot be read is a cache miss
                self._known = {}

    def sha256(self, path: Path) -> str:
        """SHA-256 of `path`, from the cache where its size and times are those remembered."""
        name = str(path.resolve())
        stamp = _stamp(path)
        entry = self._known.get(name)
        trusted = not self._verify or name in self._fresh
        if trusted and entry is not None and entry[0] == stamp:
            return str(entry[1])
        digest = sha256_file(path)
        self._known[name] = [stamp, digest]
        self._fresh.add(name)
        return digest

    def save(self) -> None:
        """Write the cache beside the receipts."""
        write_bytes(self._path, json.dumps(self._known, sort_keys=True).encode())


def _stamp(path: Path) -> str:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [(str(p.relative_to(path)), p.stat()) for p in files]
    return canonical_sha256([[name, s.st_size, s.st_mtime_ns, s.st_ino] for name, s in stats])


def _sha256_folder(folder: Path) -> str:
    lines = [
        f"{path.relative_to(folder).as_posix()} {sha256_file(path)}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
