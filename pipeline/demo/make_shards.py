"""Make the demo's pictures from Debian's openclipart-png and openclipart-svg packages.

    python -m pipeline.demo.make_shards OPENCLIPART_DIR      (the folder that holds png/ and svg/)

Kept for provenance: the result is in assets/pictures, beside SOURCE.md. Distinct pictures are at
least FAR apart (RMS at 32 px); byte-identical files under other names are kept as natural copies,
and so are drawings less than NEAR apart; what lies between is left out, so that "the same picture"
has one meaning.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.demo.openclipart import (
    PIXEL_CAP,
    Drawing,
    captions,
    is_colourful,
    read_drawings,
    render,
)
from pipeline.demo.shards import Row, encode_jpeg, thumbnail, uid_of, write_shards
from pipeline.detection.l2 import pairwise_l2

ASSETS = Path(__file__).parent / "assets"
NEAR, FAR = 0.04, 0.12
NATURAL_COPIES = 60
FAILURES = 6
PER_SHARD = 1000
JPEG_QUALITY = 70


@dataclass
class Distinct:
    """One picture, the drawing that stands for it, and its natural copies."""

    drawing: Drawing
    picture: Image.Image
    copies: list[tuple[Drawing, Image.Image]] = field(default_factory=list)


def main(source: Path) -> None:
    """Write assets/pictures from the collection at `source`."""
    Image.MAX_IMAGE_PIXELS = None  # render() has a cap of its own, and the files are Debian's
    drawings = read_drawings(source)
    by_digest: dict[str, list[Drawing]] = defaultdict(list)
    for drawing in sorted(drawings, key=lambda d: uid_of(d.name)):
        by_digest[drawing.digest].append(drawing)
    chosen, named = _caption(_distinct(by_digest.values()))
    unused = [group[0] for group in by_digest.values() if group[0].name not in named]
    too_large = [d for d in unused if _is_too_large(d)][:FAILURES]
    withheld = [d for d in unused if d not in too_large][:FAILURES]
    _write(
        _pictures(chosen, named)
        + [(_failure(d, "failed_to_resize", "Image decompression bomb"), None) for d in too_large]
        + [(_failure(d, "failed_to_download", "HTTP Error 404: Not Found"), None) for d in withheld]
    )
    print(f"{len(chosen)} pictures")


def _distinct(groups: Iterable[list[Drawing]]) -> list[Distinct]:
    """Greedy, in the order given: a picture is new, a natural copy of one before, or dropped."""
    rendered = [(group, render(group[0])) for group in groups]
    usable = [(g, p) for g, p in rendered if p is not None and is_colourful(thumbnail(p))]
    distances = pairwise_l2(np.stack([thumbnail(p) for _, p in usable]))
    kept: dict[int, Distinct] = {}
    for i, (group, picture) in enumerate(usable):
        near = [j for j in kept if distances[i, j] < FAR]
        copies = [(drawing, picture) for drawing in group]
        if not near:
            kept[i] = Distinct(group[0], picture, copies[1:])
        elif len(near) == 1 and distances[i, near[0]] < NEAR:
            kept[near[0]].copies += copies
    return list(kept.values())


def _caption(pictures: list[Distinct]) -> tuple[list[Distinct], dict[str, str]]:
    """The pictures that get a caption of their own, and every drawing's caption by name."""
    taken: set[str] = set()
    named: dict[str, str] = {}
    chosen = []
    for picture in pictures:
        own = next((c for c in captions(picture.drawing) if c not in taken), None)
        if own is not None:
            taken.add(own)
            named[picture.drawing.name] = own
            chosen.append(picture)
    for picture in chosen:
        for drawing, _ in picture.copies:
            other = next((c for c in captions(drawing) if c not in taken), None)
            named[drawing.name] = other or named[picture.drawing.name]
            taken.add(named[drawing.name])
    return chosen, named


def _is_too_large(drawing: Drawing) -> bool:
    with Image.open(drawing.path) as file:
        return file.width * file.height > PIXEL_CAP


def _pictures(chosen: list[Distinct], named: dict[str, str]) -> list[tuple[Row, str | None]]:
    """The rows of every picture and its natural copies, each with the picture's id."""
    rows: list[tuple[Row, str | None]] = []
    left = NATURAL_COPIES
    for picture in chosen:
        copies = picture.copies[:left]
        left -= len(copies)
        picture_id = uid_of(f"picture {picture.drawing.name}")
        for drawing, rendered in [(picture.drawing, picture.picture), *copies]:
            rows.append((_row(drawing, named, rendered), picture_id))
    return rows


def _write(rows: list[tuple[Row, str | None]]) -> None:
    rows = sorted(rows, key=lambda pair: pair[0].uid)
    folder = ASSETS / "pictures"
    keys = write_shards(folder, [row for row, _ in rows], PER_SHARD)
    pairs = [(key, pid) for key, (_, pid) in zip(keys, rows, strict=True) if pid is not None]
    table = pa.table({"key": [key for key, _ in pairs], "picture_id": [pid for _, pid in pairs]})
    pq.write_table(table, folder / "picture_ids.parquet")


def _row(drawing: Drawing, named: dict[str, str], picture: Image.Image) -> Row:
    with Image.open(drawing.path) as file:
        size = file.size
    return Row(
        url=_url(drawing),
        caption=named[drawing.name],
        uid=uid_of(drawing.name),
        picture=encode_jpeg(picture, JPEG_QUALITY),
        original_size=size,
    )


def _failure(drawing: Drawing, status: str, message: str) -> Row:
    return Row(
        url=_url(drawing),
        caption=next(captions(drawing), drawing.path.stem),
        uid=uid_of(drawing.name),
        picture=None,
        status=status,
        error_message=message,
    )


def _url(drawing: Drawing) -> str:
    return f"file:///usr/share/openclipart/png/{drawing.name}.png"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
