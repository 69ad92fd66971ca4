"""A strict walk over the headers of a tar file.

`tarfile` stops without a word at the first damaged header and drops what follows (CPython issue
120740), and webdataset inherits that. Here each header's checksum is verified, member sizes are
added up, the end must be marked by two blocks of zeros and followed by nothing but zeros.
Names and sizes are read as `tarfile` reads them, so that it cannot see other members than these;
what the two could understand differently is damage. Nothing is ever extracted: a member is a name,
an offset and a size.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import ShardCorrupt

BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(BLOCK)
_GNU_LONG = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_PAX = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
_REGULAR = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_WITHOUT_DATA = {  # whatever size they state
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
}
_PAX_RECORD = re.compile(rb"([0-9]{1,20}) ")
_MAX_EXTENSION_BYTES = 1 << 20
_MAX_EXTENSIONS = 16  # before one member; tarfile recurses over them


@dataclass(frozen=True)
class Member:
    """One entry: `offset` is that of its data, in bytes from the start of the file.

    Bytes of `name` that are not UTF-8 are written as escapes, backslash and all.
    """

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
    names: list[str | None] = []  # from the extended headers of the member to come
    while (header := handle.read(BLOCK)) not in (b"", _ZEROS):
        entry = _parse(header, position)
        data = position + BLOCK
        stored = 0 if entry.type in _WITHOUT_DATA else entry.size
        if data + stored > size:
            raise _Damage(f"byte {data}: {stored} bytes of data expected, {size - data} found")
        if entry.type in _GNU_LONG | _PAX:
            names.append(_read_long_name(handle, entry, data))
        else:
            yield Member(_first(names, entry.name), data, stored, entry.type in _REGULAR)
            names = []
        if len(names) > _MAX_EXTENSIONS:
            raise _Damage(f"byte {position}: more than {_MAX_EXTENSIONS} extended headers")
        position = data + -(-stored // BLOCK) * BLOCK
        if position > size:
            raise _Damage(f"byte {size}: the padding of the last member is cut")
        handle.seek(position)
    if names:
        raise _Damage(f"byte {position}: an extended header without its member")
    if not header:
        raise _EndNotMarked
    _require_end(handle, position)


def _first(names: list[str | None], own: str) -> str:
    return next((name for name in names if name is not None), own)  # of several, as tarfile does


def _parse(header: bytes, position: int) -> tarfile.TarInfo:
    if len(header) < BLOCK:
        raise _Damage(f"byte {position}: the header is cut after {len(header)} bytes")
    try:
        entry = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        raise _Damage(f"byte {position}: no valid tar header ({error})") from error
    if entry.size < 0:
        raise _Damage(f"byte {position}: negative size {entry.size}")
    if entry.type == tarfile.GNUTYPE_SPARSE:
        raise _Damage(f"byte {position}: sparse members are not read")
    return entry


def _read_long_name(handle: BinaryIO, entry: tarfile.TarInfo, data: int) -> str | None:
    if entry.size > _MAX_EXTENSION_BYTES:
        raise _Damage(f"byte {data}: an extended header of {entry.size} bytes")
    handle.seek(data)
    payload = handle.read(entry.size)
    if entry.type in _GNU_LONG:
        name = payload.partition(b"\0")[0].decode("utf-8", "backslashreplace")
        return name if entry.type == tarfile.GNUTYPE_LONGNAME else None
    records = _pax_records(payload, data)
    if "size" in records or any(name.startswith("GNU.sparse") for name in records):
        raise _Damage(f"byte {data}: pax size and sparse records are not read")
    if entry.type == tarfile.XGLTYPE and "path" in records:
        raise _Damage(f"byte {data}: one pax path for all members is not read")
    return records["path"].rstrip("/") if "path" in records else None


def _pax_records(payload: bytes, data: int) -> dict[str, str]:
    """Parse "LENGTH KEY=VALUE newline" records (POSIX.1-2001, pax Interchange Format)."""
    records: dict[str, str] = {}
    end = len(payload.rstrip(b"\0"))
    at = 0
    while at < end:
        length = _PAX_RECORD.match(payload, at)
        after = at + int(length[1]) if length else 0
        record = payload[length.end() : after] if length else b""
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not key or not equals or after > end or not record.endswith(b"\n"):
            raise _Damage(f"byte {data + at}: a malformed pax record")
        text = value.decode("utf-8", "backslashreplace")
        records[key.decode("utf-8", "backslashreplace")] = text
        at = after
    return records


def _require_end(handle: BinaryIO, position: int) -> None:
    second = handle.read(BLOCK)
    if second.strip(b"\0"):
        raise _Damage(f"byte {position}: a block of zeros between members")
    if len(second) < BLOCK:
        raise _EndNotMarked
    tail = position + 2 * BLOCK
    while block := handle.read(1 << 20):
        if rest := block.lstrip(b"\0"):
            at = tail + len(block) - len(rest)
            raise _Damage(f"byte {at}: data after the end of the archive")
        tail += len(block)
