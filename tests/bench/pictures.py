"""The pictures of the benchmarks: the user's, or the drawings of Debian's Open Clip Art packages.

What is fetched or made lies under WORK, and is made once.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.calibration.edits import EDITS
from pipeline.calibration.sample import LONGEST_SIDE
from pipeline.calibration.thresholds import ORIGINAL
from pipeline.demo.plant import PICTURES
from pipeline.demo.shards import SCHEMA, uid_of
from pipeline.io.images import EXTENSIONS, decode
from pipeline.io.shards import write_shard, write_shard_tables

PACKAGES = ("openclipart-png", "openclipart-svg")
PER_SHARD = 500
QUALITY = 95
_CLIPART = Path("usr", "share", "openclipart")
_URL = "file:///"


@dataclass(frozen=True)
class PictureSet:
    """A folder of files, the same bytes as shards, and what each file shows.

    Row r is the file `names[r]`. `original` (n,) numbers the distinct picture that the row shows,
    `edit` (n,) names what was done to it, `keys` names the distinct pictures in the user's data.
    """

    files: Path
    shards: Path
    names: list[str]
    original: npt.NDArray[np.int64]
    edit: npt.NDArray[np.str_]
    keys: list[str]

    def row_of(self, url: str) -> int:
        """The row that a URL of the shards' tables names."""
        return int(Path(url).stem)

    def warm(self) -> None:
        """Read all once, so that no system pays for a cold disk."""
        for path in (*self.files.iterdir(), *self.shards.iterdir()):
            path.read_bytes()


def read_pictures(place: Path) -> dict[str, bytes]:
    """Pictures in the files and tars of a folder, or in one tar, by shard and key or by name."""
    paths = sorted(place.rglob("*")) if place.is_dir() else [place]
    found: dict[str, bytes] = {}
    for path in paths:
        if path.suffix == ".tar":
            found |= dict(_members(path))
        elif path.suffix[1:].lower() in EXTENSIONS and path.is_file():
            found[str(path.relative_to(place))] = path.read_bytes()
    return found


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        for member in tar:
            stem, _, extension = member.name.rpartition(".")
            content = tar.extractfile(member)
            if content is not None and extension.lower() in EXTENSIONS:
                yield f"{path.stem}/{stem}", content.read()


def clipart(work: Path) -> Path:
    """The folder that holds png/ and svg/ of Open Clip Art, from Debian's packages.

    Raises CalledProcessError or OSError where apt-get or dpkg cannot give them.
    """
    target = work.resolve() / "openclipart"
    if not target.is_dir():
        partial = target.with_name("openclipart.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        subprocess.run(["apt-get", "download", *PACKAGES], check=True, cwd=partial)
        for package in sorted(partial.glob("*.deb")):
            subprocess.run(["dpkg", "-x", package, partial], check=True)
            package.unlink()
        partial.rename(target)
    return target / _CLIPART


def clipart_files(work: Path) -> list[Path]:
    """All pictures of the collection; the copies are links in the package."""
    return sorted(path for path in (clipart(work) / "png").rglob("*.png") if path.is_file())


def distinct_clipart(work: Path) -> dict[str, bytes]:
    """The drawings that the demo's set has found to be distinct, at their full size."""
    folder = clipart(work)
    shown = pq.read_table(PICTURES / "picture_ids.parquet").to_pydict()
    picture = dict(zip(shown["key"], shown["picture_id"], strict=True))
    rows = [row for path in sorted(PICTURES.glob("[0-9]*.parquet")) for row in _rows(path)]
    chosen: dict[str, str] = {}
    for row in rows:
        if row["key"] in picture:
            chosen.setdefault(picture[row["key"]], row["url"].removeprefix(f"{_URL}{_CLIPART}/"))
    return {name: (folder / name).read_bytes() for name in chosen.values()}


def _rows(path: Path) -> list[dict[str, str]]:
    return list(pq.read_table(path, columns=["key", "url"]).to_pylist())


def edited_set(pictures: dict[str, bytes], distinct: int, edited: int, work: Path) -> PictureSet:
    """`distinct` pictures, chosen by the hashes of their keys, and 16 edits of `edited` of them.

    The others lend their pixels as backgrounds of overlays and are not in the set; where they are
    fewer than `edited`, some are cut in two, so that no two overlays share a background: such a
    pair would be alike in two thirds of its area. Files are JPEGs of at most 512 pixels at quality
    95, in shuffled order. Raises ValueError for too few pictures.
    """
    ordered = sorted(pictures, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    lent = ordered[distinct:]
    if len(ordered) < distinct or edited > distinct or edited > 2 * len(lent):
        raise ValueError(
            f"{len(ordered)} pictures: {distinct} distinct ones and at least {(edited + 1) // 2} "
            "backgrounds are needed"
        )
    sizes = [(key, len(pictures[key])) for key in ordered]
    facts = json.dumps([sizes, distinct, edited, list(EDITS), QUALITY, PER_SHARD])
    folder = work.resolve() / "sets" / hashlib.sha256(facts.encode()).hexdigest()[:16]
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        _build(pictures, ordered[:distinct], lent, edited, partial)
        partial.rename(folder)
    return open_set(folder)


def _build(
    pictures: dict[str, bytes],
    chosen: Sequence[str],
    lent: Sequence[str],
    edited: int,
    folder: Path,
) -> None:
    backgrounds = _backgrounds([pictures[key] for key in lent], edited)
    total = len(chosen) + edited * len(EDITS)
    places = iter(np.random.default_rng(0).permutation(total).tolist())
    labels: list[tuple[int, str]] = [(0, "")] * total
    contents = [b""] * total
    for number, key in enumerate(chosen):
        original = _jpeg(_small(pictures[key]))
        copies = {ORIGINAL: original}
        if number < edited:
            picture, background = decode(original), next(backgrounds)
            for place, (name, edit) in enumerate(EDITS.items()):
                rng = np.random.default_rng([number, place])
                same = name == "exact"  # the very file
                copies[name] = original if same else _jpeg(edit(picture, rng, background))
        for name, content in copies.items():
            row = next(places)
            labels[row], contents[row] = (number, name), content
    write_set(folder, contents, "jpg", labels, list(chosen))


def _backgrounds(lent: Sequence[bytes], count: int) -> Iterator[Image.Image]:
    """`count` pictures no two of which share a pixel; the last of `lent` are cut in halves."""
    halved = max(0, count - len(lent))
    for number, content in enumerate(lent):
        picture = _small(content)
        if number < len(lent) - halved:
            yield picture
            continue
        width, height = picture.size
        if width > height:
            yield picture.crop((0, 0, width // 2, height))
            yield picture.crop((width // 2, 0, width, height))
        else:
            yield picture.crop((0, 0, width, height // 2))
            yield picture.crop((0, height // 2, width, height))


def write_set(
    folder: Path,
    contents: Sequence[bytes],
    extension: str,
    labels: Sequence[tuple[int, str]],
    keys: Sequence[str],
) -> None:
    """The same bytes as files and as img2dataset-like shards, and labels.json."""
    files, shards = folder / "files", folder / "shards"
    files.mkdir(parents=True)
    shards.mkdir()
    names = [f"{row:05d}.{extension}" for row in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        (files / name).write_bytes(content)
    for shard, start in enumerate(range(0, len(names), PER_SHARD)):
        samples, rows = [], []
        for place in range(start, min(start + PER_SHARD, len(names))):
            row = _record(f"{shard:05d}{place - start:04d}", names[place], contents[place])
            record = json.dumps(row, separators=(",", ":")).encode()
            caption = str(row["caption"]).encode()
            picture = {"__key__": row["key"], extension: contents[place]}
            samples.append(picture | {"txt": caption, "json": record})
            rows.append(row)
        tar = shards / f"{shard:05d}.tar"
        write_shard(tar, samples)
        stats = {"count": len(rows), "successes": len(rows), "status_dict": {"success": len(rows)}}
        stats |= {"failed_to_download": 0, "failed_to_resize": 0}
        write_shard_tables(tar, pa.Table.from_pylist(rows, schema=SCHEMA), stats)
    facts = {"names": names, "labels": list(labels), "keys": list(keys)}
    (folder / "labels.json").write_text(json.dumps(facts))


def open_set(folder: Path) -> PictureSet:
    """A set that was written before."""
    facts = json.loads((folder / "labels.json").read_text())
    original, edit = zip(*facts["labels"], strict=True)
    places = folder / "files", folder / "shards"
    return PictureSet(*places, facts["names"], np.array(original), np.array(edit), facts["keys"])


def whole_clipart(work: Path, limit: int | None = None) -> PictureSet:
    """Every file of Open Clip Art as it is; files of equal bytes are one original."""
    folder = work.resolve() / "sets" / f"clipart-{limit or 'all'}"
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        paths = clipart_files(work)[:limit]
        contents = [path.read_bytes() for path in paths]
        number: dict[bytes, int] = {}
        for content in contents:
            number.setdefault(hashlib.sha256(content).digest(), len(number))
        labels = [(number[hashlib.sha256(content).digest()], ORIGINAL) for content in contents]
        keys = [os.fspath(path.relative_to(clipart(work))) for path in paths]
        write_set(partial, contents, "png", labels, keys)
        partial.rename(folder)
    return open_set(folder)


def _record(key: str, name: str, content: bytes) -> dict[str, object]:
    record: dict[str, object] = {column: None for column in SCHEMA.names}
    record |= {"key": key, "url": f"{_URL}{name}", "uid": uid_of(name), "status": "success"}
    record |= {"caption": f"picture {Path(name).stem}"}
    record |= {"sha256": hashlib.sha256(content).hexdigest()}
    return record


def small_jpeg(content: bytes) -> bytes:
    """A picture as the sets hold it."""
    return _jpeg(_small(content))


def _small(content: bytes) -> Image.Image:
    picture = decode(content)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return picture


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
