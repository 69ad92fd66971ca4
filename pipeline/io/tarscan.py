"""A strict walk over the headers of a tar file.

`tarfile` stops without a word at the first damaged header and drops what follows (CPython issue
120740), and webdataset inherits that. Here each header's checksum is verified, member sizes are
added up, the end must be marked by two blocks of zeros and followed by nothing but zeros.
Nothing is ever extracted: a member is a name, an offset and a size.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import ShardCorrupt

BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(BLOCK)
_EXTENSION_HEADERS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME}
_REGULAR = {tarfile.REGTYPE, tarfile.AREGTYPE}
_MAX_EXTENSION_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """One entry: `offset` is that of its data, in bytes from the start of the file."""

    name: str
    offset: int
    size: int
    regular: bool


@dataclass(frozen=True)
class TarScan:
    """The members read before `damage`, which is empty for a sound file.

    `end_marked` is False where the members are whole but the closing blocks of zeros are missing,
    which some writers omit.
    """

    members: tuple[Member, ...]
    damage: str
    end_marked: bool

    def require_sound(self, path: Path) -> "TarScan":
        """Return self, or raise ShardCorrupt naming the byte offset of the damage."""
        if self.damage:
            raise ShardCorrupt(f"{path}: {self.damage}; fetch the shard again")
        return self


def scan_tar(path: Path, *, max_members: int = 1_000_000) -> TarScan:
    """Walk `path` (an uncompressed tar) and return every member with the first damage found."""
    members: list[Member] = []
    size = path.stat().st_size
    if size == 0:
        return TarScan((), "byte 0: the file is empty", end_marked=False)
    with path.open("rb") as handle:
        walk = _walk(handle, size)
        try:
            for member in walk:
                members.append(member)
                if len(members) > max_members:
                    return TarScan(tuple(members), f"more than {max_members} members", False)
        except _Damage as damage:
            return TarScan(tuple(members), str(damage), end_marked=False)
        except _EndNotMarked:
            return TarScan(tuple(members), "", end_marked=False)
    return TarScan(tuple(members), "", end_marked=True)


class _Damage(Exception):
    pass


class _EndNotMarked(Exception):
    pass


def _walk(handle: BinaryIO, size: int) -> Iterator[Member]:
    position = 0
    long_name = ""
    while True:
        header = handle.read(BLOCK)
        if not header:
            raise _EndNotMarked
        if len(header) < BLOCK:
            raise _Damage(f"byte {position}: the header is cut after {len(header)} bytes")
        if header == _ZEROS:
            _require_end(handle, position)
            return
        entry = _parse(header, position)
        data = position + BLOCK
        if data + entry.size > size:
            raise _Damage(f"byte {data}: {entry.size} bytes of data expected, {size - data} found")
        if entry.type in _EXTENSION_HEADERS:
            long_name = _read_long_name(handle, entry, data) or long_name
        else:
            name = long_name or entry.name
            yield Member(name, data, entry.size, entry.type in _REGULAR)
            long_name = ""
        position = data + -(-entry.size // BLOCK) * BLOCK
        if position > size:
            raise _Damage(f"byte {size}: the padding of the last member is cut")
        handle.seek(position)


def _parse(header: bytes, position: int) -> tarfile.TarInfo:
    try:
        entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _Damage(f"byte {position}: no valid tar header ({error})") from error
    if entry.size < 0:
        raise _Damage(f"byte {position}: negative size {entry.size}")
    if entry.type == tarfile.GNUTYPE_SPARSE:
        raise _Damage(f"byte {position}: sparse members are not read")
    return entry


def _read_long_name(handle: BinaryIO, entry: tarfile.TarInfo, data: int) -> str:
    if entry.size > _MAX_EXTENSION_BYTES:
        raise _Damage(f"byte {data}: an extended header of {entry.size} bytes")
    handle.seek(data)
    payload = handle.read(entry.size)
    if entry.type == tarfile.GNUTYPE_LONGNAME:
        return payload.rstrip(b"\0").decode("utf-8", "surrogateescape")
    records = _pax_records(payload, data)
    if "size" in records or any(name.startswith("GNU.sparse") for name in records):
        raise _Damage(f"byte {data}: pax size and sparse records are not read")
    return records.get("path", "") if entry.type == tarfile.XHDTYPE else ""


def _pax_records(payload: bytes, data: int) -> dict[str, str]:
    """Parse "LENGTH KEY=VALUE newline" records (POSIX.1-2001, pax Interchange Format)."""
    records: dict[str, str] = {}
    rest = payload
    while rest.strip(b"\0"):
        length_text, _, _ = rest.partition(b" ")
        if not length_text.isdigit() or not 0 < int(length_text) <= len(rest):
            raise _Damage(f"byte {data}: a malformed pax record")
        record = rest[len(length_text) + 1 : int(length_text) - 1]
        key, _, value = record.partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        rest = rest[int(length_text) :]
    return records


def _require_end(handle: BinaryIO, position: int) -> None:
    second = handle.read(BLOCK)
    if not second:
        raise _EndNotMarked
    if second != _ZEROS:
        raise _Damage(f"byte {position}: a block of zeros between members")
    tail = position + 2 * BLOCK
    while block := handle.read(1 << 20):
        if block.strip(b"\0"):
            raise _Damage(f"byte {tail}: data after the end of the archive")
        tail += len(block)
