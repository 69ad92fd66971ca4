"""The pictures that training sets are planted from: Open Clip Art, drawn scenes, or photographs."""

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image

from pipeline.demo.plant import PICTURES, rewordings
from pipeline.demo.shards import decode, encode_jpeg, read_shards, thumbnail, uid_of
from pipeline.detection.l2 import pairwise_l2
from pipeline.io import images
from tests.bench.audit import scenes

APART = 0.12  # RMS at 32 px: nearer ones are left out, so that "the same picture" has one meaning
WORDS = (2, 6)  # of a caption: all of one style, and every rewording fits the tokenizer
MOST = 1300
QUALITY = 88

Thumbnails = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """A distinct picture of 128 x 128 pixels with a caption that no other has."""

    picture_id: str
    caption: str
    jpeg: bytes

    @property
    def image(self) -> Image.Image:
        return decode(self.jpeg)


def open_source(name: str) -> list[Picture]:
    """The distinct pictures of `clipart`, of `scenes`, or of a folder of photographs."""
    return _distinct(every_picture(name))


def every_picture(name: str) -> Iterator[Picture]:
    """All pictures of a source, near ones and those with captions of any length, too."""
    found = {"clipart": _clipart, "scenes": _scenes}.get(name)
    return found() if found else _photos(Path(name))


def thumbnails(pictures: Sequence[Picture]) -> Thumbnails:
    """(n, 32, 32, 3) on [0, 1]: what the models see."""
    return np.stack([thumbnail(picture.image) for picture in pictures])


def _distinct(pictures: Iterator[Picture]) -> list[Picture]:
    """Greedy in the order given: those with a caption of their own, well apart."""
    captions: set[str] = set()
    usable = []
    for picture in pictures:
        variants = set(rewordings(picture.caption))
        if WORDS[0] <= len(picture.caption.split()) <= WORDS[1] and not variants & captions:
            captions |= variants
            usable.append(picture)
    distances = pairwise_l2(thumbnails(usable))
    kept: list[int] = []
    for i in range(len(usable)):
        if all(distances[i, j] >= APART for j in kept):
            kept.append(i)
    return [usable[i] for i in kept[:MOST]]


def _clipart() -> Iterator[Picture]:
    table = pq.read_table(PICTURES / "picture_ids.parquet").to_pylist()
    picture_id = {row["key"]: row["picture_id"] for row in table}
    seen: set[str] = set()
    for key, row in read_shards(PICTURES).items():
        if row.picture is not None and picture_id[key] not in seen:
            seen.add(picture_id[key])
            yield Picture(picture_id[key], row.caption, row.picture)


def _scenes(drawn: int = 2400) -> Iterator[Picture]:
    rng = np.random.default_rng(0)
    for number in range(drawn):
        text = scenes.caption(rng)
        jpeg = encode_jpeg(scenes.draw(text, rng), QUALITY)
        yield Picture(uid_of(f"scene {number}"), text, jpeg)


def _photos(folder: Path) -> Iterator[Picture]:
    """Photographs of tars (KEY.jpg, KEY.txt) or of files, in the middle of which a square is cut.

    Captions are made different by two words, as a shop names its wares.
    """
    rng = np.random.default_rng(0)
    names = sorted({word for row in read_shards(PICTURES).values() for word in _words(row.caption)})
    for name, content, caption in _files(folder):
        picture = images.decode(content)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        square = picture.resize((scenes.SIDE, scenes.SIDE), Image.Resampling.BOX, box=box)
        plain = " ".join([w for w in _words(caption) if w not in ("photo", "picture")][-2:])
        text = f"{plain}, {' '.join(str(w) for w in rng.choice(names, size=2))}"
        yield Picture(uid_of(f"photo {name}"), text, encode_jpeg(square, QUALITY))


def _words(caption: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", caption.lower()) if len(word) > 2]


def _files(folder: Path) -> Iterator[tuple[str, bytes, str]]:
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as opened:
            members = {m.name: opened.extractfile(m).read() for m in opened if m.isfile()}
        for name, content in members.items():
            if name.endswith(".jpg"):
                text = members.get(name.removesuffix("jpg") + "txt", b"").decode(errors="replace")
                yield f"{tar.stem}/{name}", content, text
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png")):
        yield path.name, path.read_bytes(), path.parent.name


def renamed(picture: Picture, caption: str) -> Picture:
    """The same picture under another caption."""
    return replace(picture, caption=caption)
