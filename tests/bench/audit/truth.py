"""What a model truly reproduces: every caption drawn with seeds of its own, measured apart.

A drawing reproduces a picture where their structural similarity is at least 0.6 and its distance
from 1 is less than 0.7 of that to any other picture (pipeline/stages/truth.py); it reproduces a
template where the RMS difference outside of the planted rectangle is at most 0.15 (the delta of
Carlini et al. 2023) and less than 0.7 of that to any other picture there. The verdict knows neither
these measures nor the rectangles nor the seeds. It may be the picture of another caption: p counts
any picture, p_own the caption's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.batches import batched
from pipeline.demo.shards import decode, read_shards, thumbnail
from pipeline.generation.backend import DiffusionModel, Sampling
from pipeline.generation.seeds import image_seed
from pipeline.ids import hash63, prompt_id
from pipeline.io.tables import write_rows
from pipeline.stages.score import label
from pipeline.stages.truth import reproduced
from tests.bench.audit.planting import SIBLING, SINGLE, shrunk

SIDE = 32
DELTA, MAX_RATIO = 0.15, 0.7
BATCH = 32
SHORTLIST = 12

TRUTH = pa.schema(
    [
        ("prompt_id", pa.int64()),
        ("caption", pa.string()),
        ("picture_id", pa.string()),
        ("regime", pa.string()),
        ("k", pa.int32()),
        ("k_caption", pa.int32()),
        ("family", pa.string()),
        ("n", pa.int32()),
        ("hits", pa.int32()),
        ("hits_own", pa.int32()),
        ("p", pa.float64()),
        ("p_own", pa.float64()),
        ("label", pa.string()),
    ]
)

Row = dict[str, Any]
Pictures = npt.NDArray[np.uint8]
Units = npt.NDArray[np.float32]
Masks = dict[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Originals:
    """The distinct pictures of a set at the models' size: the mean of each one's copies.

    `outside`: by picture_id, the pixels (SIDE, SIDE) that a template's copies share.
    """

    ids: list[str]
    unit: Units
    outside: Masks

    @cached_property
    def place(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ids)}


def read_originals(folder: Path) -> Originals:
    """The originals of a planted set."""
    planted = pq.read_table(folder / "planted.parquet").to_pylist()
    rows = read_shards(folder / "shards")
    sums: dict[str, list[Any]] = {}
    for row in planted:
        content = rows[row["key"]].picture
        assert content is not None
        sums.setdefault(row["picture_id"], []).append(thumbnail(decode(content), SIDE))
    ids = sorted(sums)
    mean = np.stack([np.mean(sums[name], axis=0) for name in ids])
    several = {row["mask_id"] for row in planted if row["mask_id"] is not None and row["k"] > 1}
    with np.load(folder / "masks.npz", allow_pickle=False) as masks:
        outside = {name: ~shrunk(masks[name], SIDE) for name in masks.files if name in several}
    return Originals(ids, mean.astype(np.float32), outside)


def captions_of(folder: Path, singles: int) -> list[Row]:
    """Every planted caption, those of siblings, and of `singles` pictures that are there once.

    Captions that two pictures share are left out: whose are they?
    """
    table = pq.read_table(folder / "planted.parquet")
    first: dict[str, Row] = {}
    owners: dict[str, set[str]] = {}
    for row in table.to_pylist():
        first.setdefault(row["caption"], row)
        owners.setdefault(row["caption"], set()).add(row["picture_id"])
    known = [row for caption, row in first.items() if len(owners[caption]) == 1]
    fields = ("caption", "picture_id", "regime", "k", "k_caption", "family")
    rows = [{"prompt_id": prompt_id(r["caption"])} | {f: r[f] for f in fields} for r in known]
    rows.sort(key=lambda row: hash63("single", row["caption"]))
    once = [row for row in rows if row["regime"] == SINGLE]
    planted = [row for row in rows if row["regime"] not in (SINGLE, SIBLING)]
    return [*planted, *(row for row in rows if row["regime"] == SIBLING), *once[:singles]]


def measure(
    model: DiffusionModel, rows: Sequence[Row], originals: Originals, how: Sampling, seeds: int
) -> list[Row]:
    """Rows of TRUTH: each caption drawn `seeds` times."""
    found: dict[int, list[str | None]] = {}
    jobs = [
        (row, image_seed(0, hash63("bench truth", row["prompt_id"]), number))
        for row in rows
        for number in range(seeds)
    ]
    for batch in batched(jobs, BATCH):
        drawn = model.draw([row["caption"] for row, _ in batch], [seed for _, seed in batch], how)
        for (row, _), name in zip(batch, which(drawn, originals), strict=True):
            found.setdefault(row["prompt_id"], []).append(name)
    return [_row(row, found[row["prompt_id"]]) for row in rows]


def _row(row: Row, found: Sequence[str | None]) -> Row:
    hits = sum(name is not None for name in found)
    own = sum(name == row["picture_id"] for name in found)
    p = hits / len(found)
    counts = {"n": len(found), "hits": hits, "hits_own": own}
    return row | counts | {"p": p, "p_own": own / len(found), "label": label(p)}


def which(drawn: Pictures, originals: Originals) -> list[str | None]:
    """For each drawing (n, SIDE, SIDE, 3) the id of the picture that it reproduces, if any."""
    if drawn.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"drawings of {drawn.shape[1:]}: {SIDE} x {SIDE} is measured")
    unit = drawn.astype(np.float32) / 255
    pictures = _most_similar(unit, originals)
    templates = [_template(one, originals) for one in unit]
    return [template or picture for template, picture in zip(templates, pictures, strict=True)]


def _most_similar(unit: Units, originals: Originals) -> list[str | None]:
    """By structural similarity to the nearest pictures by squared error; templates apart."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    theirs = originals.unit.reshape(len(originals.ids), -1)
    errors = np.square(theirs).sum(axis=1) - 2 * unit.reshape(len(unit), -1) @ theirs.T
    nearest = np.argsort(errors, axis=1, kind="stable")[:, :SHORTLIST]
    drawn = torch.from_numpy(np.repeat(unit, nearest.shape[1], axis=0)).permute(0, 3, 1, 2)
    targets = torch.from_numpy(originals.unit[nearest.ravel()]).permute(0, 3, 1, 2)
    values = ssim(drawn, targets, reduction="none", data_range=1.0).reshape(nearest.shape)
    found: list[str | None] = []
    for places, similar in zip(nearest.tolist(), values.tolist(), strict=True):
        place = reproduced(dict(zip(places, similar, strict=True)))
        name = None if place is None else originals.ids[place]
        found.append(None if name in originals.outside else name)
    return found


def _template(unit: Units, originals: Originals) -> str | None:
    best: tuple[float, str] | None = None
    for name, outside in originals.outside.items():
        place = originals.place[name]
        own = _rms(unit, originals.unit[place : place + 1], outside)[0]
        if own > DELTA or (best is not None and own >= best[0]):
            continue
        others = np.delete(originals.unit, place, axis=0)
        if own < MAX_RATIO * _rms(unit, others, outside).min():
            best = own, name
    return best[1] if best else None


def _rms(unit: Units, pictures: Units, outside: npt.NDArray[np.bool_]) -> Units:
    return np.sqrt(np.square(pictures[:, outside] - unit[outside]).mean(axis=(1, 2)))


def write_truth(path: Path, rows: Sequence[Row]) -> None:
    """Rows of TRUTH as a table."""
    write_rows(path, rows, TRUTH)
