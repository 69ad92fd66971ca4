"""Pictures that another generator made: files in a folder, or tars in webdataset's layout.

What is said of a picture lies beside it: `NAME.txt` holds its caption, `NAME.json` an object with a
caption (or prompt, or text) and maybe a seed. Nothing else of these files is used.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import MissingInput
from pipeline.io.shards import Shard, find_shards

_READ = (".jpg", ".jpeg", ".png", ".webp")
SUFFIXES = frozenset(
    (*_READ, ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl", ".jp2", ".ppm", ".pgm")
)
"""Files that mean to be pictures, whether or not they are of a kind that is read."""
SIDECARS = (".txt", ".json")
_CAPTIONS = ("caption", "prompt", "text")
MAX_SIDECAR = 1 << 20
_INT64 = 1 << 63


@dataclass(frozen=True)
class PictureFile:
    """A picture by its name under the folder, with the sidecars that it has, by suffix."""

    key: str
    sidecars: tuple[str, ...] = ()


@dataclass(frozen=True)
class GivenPictures:
    """What an address holds: tars, picture files under `root`, and the names of other files."""

    root: Path
    shards: tuple[Shard, ...] = ()
    files: tuple[PictureFile, ...] = ()
    others: tuple[str, ...] = ()


def find_given(address: str) -> GivenPictures:
    """Tars and picture files of a folder (its folders too), one file, or tars by glob or braces.

    Raises MissingInput where there is neither.
    """
    place = Path(address)
    if place.is_dir():
        tars = find_shards([address]) if any(place.glob("*.tar")) else []
        files, others = _picture_files(place)
        if not tars and not files:
            raise MissingInput(f"{address}: no picture and no .tar file in it")
        return GivenPictures(place, tuple(tars), tuple(files), tuple(others))
    if place.is_file() and place.suffix.lower() in SUFFIXES:
        names = {path.name for path in place.parent.iterdir()}
        return GivenPictures(place.parent, files=(_picture_file(place.name, names),))
    return GivenPictures(place.parent, tuple(find_shards([address])))


@dataclass(frozen=True)
class Told:
    """What lies beside a picture."""

    caption: str = ""
    seed: int | None = None


def read_told(sidecars: Mapping[str, bytes]) -> Told:
    """Caption and seed out of the bytes of sidecars, by suffix without its dot.

    A sidecar that is too large, no UTF-8 or no JSON object tells nothing.
    """
    caption = sidecars.get("txt", b"")[:MAX_SIDECAR].decode("utf-8", "replace").strip()
    values = _json_object(sidecars.get("json", b""))
    if not caption:
        texts = (values.get(name) for name in _CAPTIONS)
        caption = next((text for text in texts if isinstance(text, str) and text.strip()), "")
    seed = values.get("seed")
    known = isinstance(seed, int) and not isinstance(seed, bool) and -_INT64 <= seed < _INT64
    # half a surrogate pair is JSON, but no text
    return Told(caption.encode("utf-8", "replace").decode(), seed if known else None)


def read_sidecars(root: Path, file: PictureFile) -> dict[str, bytes]:
    """The bytes of a picture's sidecars, by suffix without its dot."""
    found = {}
    for suffix in file.sidecars:
        with (root / file.key).with_suffix(suffix).open("rb") as handle:
            found[suffix[1:]] = handle.read(MAX_SIDECAR + 1)
    return found


def _json_object(data: bytes) -> dict[str, Any]:
    if not data or len(data) > MAX_SIDECAR:
        return {}
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _picture_files(root: Path) -> tuple[list[PictureFile], list[str]]:
    files: list[PictureFile] = []
    others: list[str] = []
    for folder, names in _folders(root):
        for name in sorted(names):
            key = (folder / name).as_posix()
            suffix = PurePosixPath(name).suffix.lower()
            if suffix in SUFFIXES:
                files.append(_picture_file(key, names))
            elif suffix not in (*SIDECARS, ".tar", ".parquet"):
                others.append(key)
    files.sort(key=lambda file: file.key)
    return files, sorted(others)


def _folders(root: Path) -> Iterator[tuple[PurePosixPath, set[str]]]:
    """Each folder below `root` with its files; hidden ones and links to folders are left out."""
    for at, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = PurePosixPath(Path(at).relative_to(root).as_posix())
        yield place, {name for name in names if not name.startswith(".")}


def _picture_file(key: str, names: set[str]) -> PictureFile:
    stem = PurePosixPath(key).stem
    return PictureFile(key, tuple(suffix for suffix in SIDECARS if f"{stem}{suffix}" in names))
