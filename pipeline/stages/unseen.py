"""Pictures that the model was never trained on: where an attack hits them, it proves nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config import RunConfig
from pipeline.detection.verdict import Thresholds
from pipeline.errors import MissingInput
from pipeline.ids import hash63
from pipeline.io.digest import sha256_once
from pipeline.io.images import decode, to_square
from pipeline.io.runfolder import ACCEPTED
from pipeline.io.shards import Shard, find_shards, read_member
from pipeline.runner.part import Context
from pipeline.stages.gallery import Gallery
from pipeline.stages.judging import limits_of
from pipeline.stages.scan import image_limits, scan_shard

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Unseen:
    """One picture (s, s, 3) at the model's resolution, with its caption."""

    picture: np.ndarray
    caption: str


@dataclass(frozen=True)
class Choice:
    """`count` pictures in all, dealt out to `blocks` of which this is one."""

    count: int
    block: int
    blocks: int


def unseen_shards(context: Context) -> list[Shard]:
    """The shards of `verify.unseen`; none where it is empty."""
    patterns = context.config.verify.unseen
    return find_shards(patterns) if patterns else []


def read_unseen(
    shards: Sequence[Path], context: Context, gallery: Gallery, side: int, choice: Choice
) -> tuple[list[Unseen], int]:
    """The pictures of one block, and how many of it are refused: the training set holds them.

    Of all distinct pictures with a caption `choice.count` are taken, by hash of their bytes.
    Raises MissingInput where there is none.
    """
    rows = _chosen(shards, context, choice.count)[choice.block :: choice.blocks]
    found, trained = [], 0
    limits = limits_of(context)
    for row in rows:
        with Path(row["path"]).open("rb") as handle:
            data = read_member(handle, row["offset"], row["size"])
        image = decode(data, image_limits(context))
        if _is_trained(image, gallery, limits):
            trained += 1
        else:
            found.append(Unseen(to_square(image, side), row["caption"]))
    return found, trained


def _chosen(shards: Sequence[Path], context: Context, count: int) -> list[Row]:
    stamps = tuple((str(path), sha256_once(path)) for path in shards)
    config, seed = context.config, context.config.seed
    rows = {row["sha256"]: row for row in _scanned(context.run, config.model_dump_json(), stamps)}
    ranked = sorted(rows.values(), key=lambda row: hash63("unseen", seed, row["sha256"]))
    if not ranked:
        where = ", ".join(map(str, shards))
        raise MissingInput(f"verify.unseen: no picture with a caption in {where}")
    return ranked[:count]


@lru_cache(maxsize=2)
def _scanned(run: Path, config: str, stamps: tuple[tuple[str, str], ...]) -> list[Row]:
    """Accepted rows with a caption, of every shard, once a process."""
    context = Context(run, RunConfig.model_validate_json(config))
    rows = []
    for number, (path, _) in enumerate(stamps):
        scanned, _notes = scan_shard(Shard(number, Path(path).stem, Path(path)), context)
        rows += [
            row | {"path": path} for row in scanned if row["status"] == ACCEPTED and row["caption"]
        ]
    return rows


def _is_trained(image: Image.Image, gallery: Gallery, limits: Thresholds) -> bool:
    """Whether a near-duplicate of the picture is in the training set, by the absolute rule."""
    return any(
        row["tiled_l2"] <= limits.max_tiled_l2 and row["l2"] <= limits.max_l2
        for row in gallery.measure([image])[0]
    )
