"""A training set whose duplicates are known: the shipped pictures, some of them planted k times.

A planted copy is what re-uploads look like: another JPEG quality, and shifted or cropped by at most
MAX_MOVE of 128 px, a quarter of a pixel at the 32 px that the demo model sees. (Drawings have hard
edges: half a pixel is an RMS of 0.13 there.) Half of the pictures of a level carry one caption,
half carry three rewordings in equal parts. Every other picture is there once, with its natural
copies.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image, ImageChops

from pipeline.demo.shards import (
    Row,
    decode,
    encode_jpeg,
    read_failures,
    read_shards,
    thumbnail,
    uid_of,
    write_shards,
)
from pipeline.detection.l2 import pairwise_l2
from pipeline.errors import UsageError
from pipeline.io import schemas
from pipeline.io.tables import write_rows

PICTURES = Path(__file__).parent / "assets" / "pictures"
PER_SHARD = 500
WELL_APART = 0.2  # RMS at 32 px from every other picture
STEADY = 0.08  # RMS at 32 px that moving a picture by MAX_MOVE may make
MAX_WORDS = 6  # so that every rewording fits the tokenizer
MAX_MOVE = 1  # of 128 px
QUALITIES = (60, 95)


@dataclass(frozen=True)
class Plant:
    """One row of the planted set with its truth."""

    row: Row
    picture_id: str
    planted: bool


def plant(
    out: Path,
    *,
    seed: int = 0,
    copies: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    pictures_per_level: int = 12,
    limit: int | None = None,
) -> None:
    """Write out/shards and out/planted.parquet.

    `pictures_per_level` pictures occur k times for each k in `copies`; `limit` keeps that many
    distinct pictures in all. Equal arguments give equal bytes.

    Raises:
        UsageError: more pictures to plant than there are well separated ones, or than `limit`.

    """
    rng = np.random.default_rng(seed)
    wanted = len(copies) * pictures_per_level
    if limit is not None and limit < wanted:
        raise UsageError(f"demo: {wanted} pictures to plant, above the limit of {limit}; raise it")
    base = _base_set()
    chosen = _separated(base, wanted, rng)
    kept = _limited(base, chosen, limit, rng)
    plants = [p for p in kept if p.picture_id not in chosen]
    own = {p.picture_id: p for p in kept if p.picture_id in chosen}
    for i, picture_id in enumerate(chosen):
        level, place = divmod(i, pictures_per_level)
        plants += _copies(own[picture_id], copies[level], reworded=place % 2 == 1, rng=rng)
    failures = read_failures(PICTURES)
    _write(out, plants, failures, rng)


def planned_rows(copies: Sequence[int], pictures_per_level: int) -> int:
    """Rows of a planted set without a limit, those without a picture included."""
    base = sum(pq.read_metadata(p).num_rows for p in PICTURES.glob("[0-9]*.parquet"))
    return base + pictures_per_level * (sum(copies) - len(copies))


def rewordings(caption: str) -> tuple[str, str, str]:
    """A caption and two natural rewordings of it."""
    parts = caption.split(", ")
    turned = ", ".join(parts[::-1]) if len(parts) > 1 else f"{caption}, clip art"
    return caption, f"a picture of {caption}", turned


def _base_set() -> list[Plant]:
    table = pq.read_table(PICTURES / "picture_ids.parquet").to_pylist()
    picture_ids = {r["key"]: r["picture_id"] for r in table}
    return [Plant(row, picture_ids[key], False) for key, row in read_shards(PICTURES).items()]


def _separated(base: list[Plant], wanted: int, rng: np.random.Generator) -> list[str]:
    """Ids of pictures far from all others, without natural copies, in random order."""
    occurrences = Counter(p.picture_id for p in base)
    captions = Counter(v for p in base for v in rewordings(p.row.caption))
    distinct = list({p.picture_id: p for p in base}.values())
    distances = pairwise_l2(np.stack([_thumbnail(p.row) for p in distinct]))
    np.fill_diagonal(distances, np.inf)
    candidates = [
        p.picture_id
        for p, nearest in zip(distinct, distances.min(axis=1), strict=True)
        if nearest >= WELL_APART
        and occurrences[p.picture_id] == 1
        and len(p.row.caption.split()) <= MAX_WORDS
        and _unsteadiness(p.row) <= STEADY
        and all(captions[v] == 1 for v in rewordings(p.row.caption))
    ]
    if wanted > len(candidates):
        raise UsageError(
            f"demo: {wanted} pictures to plant, {len(candidates)} are well separated; plant fewer"
        )
    return [candidates[i] for i in rng.permutation(len(candidates))[:wanted]]


def _thumbnail(row: Row) -> npt.NDArray[np.float32]:
    return thumbnail(_picture(row))


def _unsteadiness(row: Row) -> float:
    """What the largest shift changes, as RMS at 32 px."""
    picture = _picture(row)
    change = thumbnail(ImageChops.offset(picture, MAX_MOVE, MAX_MOVE)) - thumbnail(picture)
    return float(np.sqrt((change**2).mean()))


def _picture(row: Row) -> Image.Image:
    if row.picture is None:
        raise ValueError(f"row {row.uid} has no picture")
    return decode(row.picture)


def _limited(
    base: list[Plant], chosen: list[str], limit: int | None, rng: np.random.Generator
) -> list[Plant]:
    """The rows of `limit` distinct pictures, the chosen ones first."""
    others = sorted({p.picture_id for p in base} - set(chosen))
    shuffled = [others[i] for i in rng.permutation(len(others))]
    kept = set((chosen + shuffled)[:limit])
    return [p for p in base if p.picture_id in kept]


def _copies(original: Plant, k: int, *, reworded: bool, rng: np.random.Generator) -> list[Plant]:
    """The original and k - 1 copies; reworded, their captions take turns."""
    picture = _picture(original.row)
    captions = rewordings(original.row.caption) if reworded else (original.row.caption,)
    rows = [original.row]
    for i in range(1, k):
        name = f"{original.row.uid} copy {i}"
        copy = replace(
            original.row,
            url=f"{original.row.url}#copy-{i}",
            caption=captions[i % len(captions)],
            uid=uid_of(name),
            picture=_reencode(picture, rng),
        )
        rows.append(copy)
    return [Plant(row, original.picture_id, True) for row in rows]


def _reencode(picture: Image.Image, rng: np.random.Generator) -> bytes:
    """Shifted, or cropped and scaled back, then compressed anew."""
    side = picture.width
    if rng.random() < 0.5:
        left, top = (int(v) for v in rng.integers(-MAX_MOVE, MAX_MOVE + 1, size=2))
        edited = Image.new("RGB", picture.size, "white")
        edited.paste(picture, (left, top))
    else:
        left, top, right, bottom = (int(v) for v in rng.integers(0, MAX_MOVE + 1, size=4))
        box = (left, top, side - right, side - bottom)
        edited = picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)
    return encode_jpeg(edited, int(rng.integers(*QUALITIES)))


def _write(out: Path, plants: list[Plant], failures: list[Row], rng: np.random.Generator) -> None:
    rows: list[tuple[Row, Plant | None]] = [(p.row, p) for p in plants]
    rows += [(failure, None) for failure in failures]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    keys = write_shards(out / "shards", [row for row, _ in shuffled], PER_SHARD)
    k = Counter(p.picture_id for p in plants)
    k_caption = Counter((p.picture_id, p.row.caption) for p in plants)
    truth = [
        {
            "key": key,
            "uid": p.row.uid,
            "picture_id": p.picture_id,
            "caption": p.row.caption,
            "k": k[p.picture_id],
            "k_caption": k_caption[p.picture_id, p.row.caption],
            "planted": p.planted,
        }
        for key, (_, p) in zip(keys, shuffled, strict=True)
        if p is not None
    ]
    write_rows(out / "planted.parquet", truth, schemas.PLANTED)
