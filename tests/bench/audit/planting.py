"""A training set whose memorization can be known: pictures planted k times in three regimes.

    verbatim   k copies of one picture under one caption: half of them the very bytes, half encoded
               anew and moved by at most a pixel of 128
    diverse    the same, its captions three rewordings in turn
    template   k pictures under one caption that share all but a rectangle, filled anew each time:
               what is outside of it is learnt

Everything else is there once. A third of the planted pictures' captions also name a sibling: a
picture that is there once, whose caption differs from the planted one in its last word. Captions of
pictures seen once are reworded as often as planted ones are, so that no style tells them apart.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, ImageChops, ImageDraw

from pipeline.demo.plant import MAX_MOVE, STEADY, WELL_APART, _reencode, rewordings
from pipeline.demo.shards import Row, encode_jpeg, thumbnail, uid_of, write_shards
from pipeline.detection.l2 import pairwise_l2
from pipeline.io.tables import write_rows
from tests.bench.audit.sources import Picture, thumbnails

REGIMES = ("verbatim", "diverse", "template")
COPIES = (1, 2, 4, 8, 16, 32, 64)
SINGLE, SIBLING = "single", "sibling"
STYLES = (0.6, 0.2, 0.2)  # how often each rewording stands at a planted picture
PER_SHARD = 500
PATCH = (40, 60)  # side of a template's rectangle, of 128 px
CONTRAST = 0.12  # RMS about the mean colour that a template must have outside of it
SIDE = 128

PLANTED = pa.schema(
    [
        ("key", pa.string()),
        ("uid", pa.string()),
        ("picture_id", pa.string()),
        ("caption", pa.string()),
        ("regime", pa.string()),
        ("k", pa.int32()),
        ("k_caption", pa.int32()),
        ("mask_id", pa.string()),
        ("family", pa.string()),
    ]
)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """What is planted: `per_level` pictures a regime and number of copies."""

    seed: int
    per_level: int = 5
    copies: tuple[int, ...] = COPIES
    limit: int | None = None


@dataclass(frozen=True)
class Planted:
    """A row of the set and its truth; `family` names the captions that are variants of one."""

    row: Row
    picture_id: str
    regime: str
    family: str
    mask_id: str | None = None


def plant(pictures: Sequence[Picture], out: Path, plan: Plan) -> None:
    """Write out/shards, out/planted.parquet and out/masks.npz; equal arguments give equal bytes.

    masks.npz holds, by mask_id, where a template varies: bool (128, 128).
    Raises ValueError where too few pictures are well separated.
    """
    rng = np.random.default_rng(plan.seed)
    levels = [(r, k) for r in REGIMES for k in plan.copies for _ in range(plan.per_level)]
    chosen = _separated(pictures, len(levels), rng)
    patches = _patches(pictures, chosen, levels, rng)
    others = [picture for i, picture in enumerate(pictures) if i not in set(chosen)]
    others = [others[i] for i in rng.permutation(len(others))][: plan.limit]
    rows: list[Planted] = []
    for (regime, k), place in zip(levels, chosen, strict=True):
        rows += _copies(pictures[place], regime, k, patches.get(place), rng)
    siblings = _siblings([pictures[place] for place in chosen], others, rng)
    for i, picture in enumerate(others):
        text, family = siblings.get(i, (picture.caption, picture.picture_id))
        style = int(rng.choice(len(STYLES), p=STYLES))
        row = _row(picture, rewordings(text)[style], picture.picture_id, picture.jpeg)
        rows.append(Planted(row, picture.picture_id, SIBLING if i in siblings else SINGLE, family))
    _write(out, rows, {pictures[p].picture_id: _mask(box) for p, box in patches.items()}, rng)
    (out / "plan.json").write_text(json.dumps({"seed": plan.seed, "per_level": plan.per_level}))


def _separated(pictures: Sequence[Picture], wanted: int, rng: np.random.Generator) -> list[int]:
    """Places of pictures that are far from all others and hardly change when moved."""
    distances = pairwise_l2(thumbnails(pictures))
    np.fill_diagonal(distances, np.inf)
    fit = [
        i
        for i, nearest in enumerate(distances.min(axis=1))
        if nearest >= WELL_APART and _unsteadiness(pictures[i].image) <= STEADY
    ]
    if wanted > len(fit):
        raise ValueError(f"{wanted} pictures to plant, {len(fit)} are well separated; plant fewer")
    return [fit[i] for i in rng.permutation(len(fit))[:wanted]]


def _unsteadiness(picture: Image.Image) -> float:
    moved = ImageChops.offset(picture, MAX_MOVE, MAX_MOVE)
    return float(np.sqrt(((thumbnail(moved) - thumbnail(picture)) ** 2).mean()))


Box = tuple[int, int, int, int]


def _patches(
    pictures: Sequence[Picture],
    chosen: Sequence[int],
    levels: Sequence[tuple[str, int]],
    rng: np.random.Generator,
) -> dict[int, Box]:
    """The rectangle of each template: what is outside still shows a picture of its own."""
    small = thumbnails(pictures)
    boxes: dict[int, Box] = {}
    for place, (regime, _) in zip(chosen, levels, strict=True):
        if regime != "template":
            continue
        for _ in range(200):
            width, height = (int(v) for v in rng.integers(*PATCH, size=2))
            left = int(rng.integers(4, SIDE - 4 - width))
            top = int(rng.integers(4, SIDE - 4 - height))
            box = (left, top, left + width, top + height)
            if _tells(small, place, ~shrunk(_mask(box), 32)):
                boxes[place] = box
                break
        else:
            raise ValueError(f"{pictures[place].caption}: no place for a template's rectangle")
    return boxes


def _tells(small: npt.NDArray[np.float32], place: int, outside: Mask) -> bool:
    seen = small[:, outside]
    own = seen[place]
    errors = np.sqrt(((seen - own) ** 2).mean(axis=(1, 2)))
    errors[place] = np.inf
    contrast = np.sqrt(((own - own.mean(axis=0)) ** 2).mean())
    return bool(errors.min() >= WELL_APART * 0.9 and contrast >= CONTRAST)


def _mask(box: Box) -> Mask:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def shrunk(mask: Mask, side: int) -> Mask:
    """The mask at another size: a pixel that covers any of it, and those beside such a one."""
    step = len(mask) // side
    small = mask.reshape(side, step, side, step).any(axis=(1, 3))
    padded = np.pad(small, 1)
    return np.stack([padded[i : i + side, j : j + side] for i in range(3) for j in range(3)]).any(
        axis=0
    )


def _copies(
    picture: Picture, regime: str, k: int, box: Box | None, rng: np.random.Generator
) -> Iterator[Planted]:
    captions = rewordings(picture.caption) if regime == "diverse" else (picture.caption,)
    for i in range(k):
        if box is not None:
            jpeg = encode_jpeg(_filled(picture.image, box, rng), int(rng.integers(75, 95)))
        elif i == 0 or rng.random() < 0.5:
            jpeg = picture.jpeg
        else:
            jpeg = _reencode(picture.image, rng)
        row = _row(picture, captions[i % len(captions)], f"{picture.picture_id} copy {i}", jpeg)
        mask_id = None if box is None else picture.picture_id
        yield Planted(row, picture.picture_id, regime, picture.picture_id, mask_id)


def _filled(picture: Image.Image, box: Box, rng: np.random.Generator) -> Image.Image:
    """The rectangle in one colour with stripes or a disc in another."""
    drawn = picture.copy()
    canvas = ImageDraw.Draw(drawn)
    ground, figure = (tuple(int(v) for v in rng.integers(0, 256, size=3)) for _ in range(2))
    inside = (box[0], box[1], box[2] - 1, box[3] - 1)
    canvas.rectangle(inside, fill=ground)
    width, height = box[2] - box[0], box[3] - box[1]
    kind = rng.choice(["plain", "disc", "stripes"])
    if kind == "disc":
        x, y = box[0] + width / 2, box[1] + height / 2
        radius = min(width, height) * rng.uniform(0.2, 0.45)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=figure)
    elif kind == "stripes":
        for top in range(box[1], box[3], 16):
            canvas.rectangle((box[0], top, inside[2], min(top + 7, inside[3])), fill=figure)
    return drawn


def _siblings(
    planted: Sequence[Picture], others: Sequence[Picture], rng: np.random.Generator
) -> dict[int, tuple[str, str]]:
    """By place among the others: a caption that differs from a planted one by a word, its family.

    The word is the last of the other's own caption.
    """
    taken = {v for p in [*planted, *others] for v in rewordings(p.caption)}
    free = [int(i) for i in rng.permutation(len(others))]
    found: dict[int, tuple[str, str]] = {}
    for picture in planted:
        for i in free:
            words = picture.caption.split()
            text = " ".join([*words[:-1], others[i].caption.split()[-1]])
            if not set(rewordings(text)) & taken:
                taken |= set(rewordings(text))
                found[i] = (text, picture.picture_id)
                free.remove(i)
                break
    return found


def _row(picture: Picture, caption: str, name: str, jpeg: bytes) -> Row:
    return Row(f"planted:{name.replace(' ', '-')}", caption, uid_of(name), jpeg, (SIDE, SIDE))


def _write(
    out: Path, planted: list[Planted], masks: dict[str, Mask], rng: np.random.Generator
) -> None:
    ordered = [planted[i] for i in rng.permutation(len(planted))]
    keys = write_shards(out / "shards", [p.row for p in ordered], PER_SHARD)
    k = Counter(p.picture_id for p in ordered)
    k_caption = Counter((p.picture_id, p.row.caption) for p in ordered)
    rows = [
        {
            "key": key,
            "uid": p.row.uid,
            "picture_id": p.picture_id,
            "caption": p.row.caption,
            "regime": p.regime,
            "k": k[p.picture_id],
            "k_caption": k_caption[p.picture_id, p.row.caption],
            "mask_id": p.mask_id,
            "family": p.family,
        }
        for key, p in zip(keys, ordered, strict=True)
    ]
    write_rows(out / "planted.parquet", rows, PLANTED)
    np.savez_compressed(out / "masks.npz", **masks)
