"""The training set as a gallery: which training pictures is a picture nearest to?

Candidates come from the whole index of each encoder, one kept picture a duplicate group, so that
64 copies do not fill the list. They are then compared pixel by pixel at one common size; inside
the nearest group every copy is looked at. Distances to other groups are what makes a small
distance mean something: on white clip art, all plain pictures are near each other.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import indexes
from indexes import unit
from pipeline.config import Encoder, RunConfig
from pipeline.config import Match as MatchConfig
from pipeline.detection.adaptive_l2 import N_NEIGHBOURS, adaptive_l2, nearest_ratio
from pipeline.detection.blank import is_blank
from pipeline.detection.l2 import pairwise_l2
from pipeline.detection.masked_l2 import masked_l2, template_mask
from pipeline.detection.split_product import split_product
from pipeline.detection.tiled_l2 import pairwise_tiled_l2
from pipeline.encoders import build_encoder, metric_of
from pipeline.io import schemas
from pipeline.io.digest import sha256_once
from pipeline.io.images import to_square
from pipeline.io.manifest import TrainingImages
from pipeline.io.runfolder import DUPLICATES, current_groups, index_folder, placeholder_groups
from pipeline.io.runjson import read_run_config
from pipeline.io.tables import read_table
from pipeline.runner.part import Context
from pipeline.stages.scan import image_limits, shards_of

_MAX_MEMBERS = 64
_MAX_CHUNKS = 16
_DECIMALS = 6

Ids = npt.NDArray[np.int64]
Row = dict[str, Any]
Nearest = tuple[int, float]
"""A group and the cosine to it."""


def descriptor_of(context: Context) -> Encoder | None:
    """Of the encoders that pictures are matched by the first that is compared by cosine."""
    config = _training_config(context)
    name = _first_descriptor(config, context.config.match)
    return None if name is None else config.embed.encoders[name]


def open_gallery(context: Context) -> "Gallery":
    """The gallery of a run's training set, opened once a process."""
    config = _training_config(context)
    digest = sha256_once(context.train / DUPLICATES)
    match = context.config.match
    return _open(context.train.resolve(), config.model_dump_json(), match, digest)


@lru_cache(maxsize=2)
def _open(run: Path, config: str, match: MatchConfig, digest: str) -> "Gallery":
    del digest  # a key only: another training set in the same folder is another gallery
    return Gallery(run, RunConfig.model_validate_json(config), match)


def _training_config(context: Context) -> RunConfig:
    return context.config if context.config.train is None else read_run_config(context.train)


def _first_descriptor(config: RunConfig, match: MatchConfig) -> str | None:
    encoders = config.embed.encoders
    return next((name for name in match.encoders if metric_of(encoders[name]) == "cosine"), None)


class Gallery:
    """Nearest training pictures by descriptor and by pixels."""

    def __init__(self, run: Path, config: RunConfig, match: MatchConfig) -> None:
        self._config, self._match = config, match
        table = read_table(run / DUPLICATES, schemas.DUPLICATES)
        ids, groups = table["image_id"].to_numpy(), current_groups(table)
        self._kept: Ids = ids[table["keep"].to_numpy(zero_copy_only=False)]
        self.group_of: dict[int, int] = dict(zip(ids.tolist(), groups.tolist(), strict=True))
        self._members: dict[int, list[int]] = {}
        for image_id, group in self.group_of.items():
            self._members.setdefault(group, []).append(image_id)
        source = Context(run, config)
        shards = {shard.name: shard.path for shard in shards_of(source)}
        self.images = TrainingImages(run, shards, image_limits(source))
        self._placeholders = placeholder_groups(run)
        self._squares: dict[int, npt.NDArray[np.uint8]] = {}
        self._masks: dict[int, npt.NDArray[np.bool_] | None] = {}
        self._indexes = {
            name: indexes.load(
                run / index_folder(name),
                fingerprint=build_encoder(config.embed.encoders[name]).fingerprint,
            )
            for name in match.encoders
        }

    def measure(self, pictures: Sequence[Image.Image]) -> list[list[Row]]:
        """For each picture its nearest groups, best first: rows of matches.parquet less the id."""
        proposals = {name: self._propose(name, pictures) for name in self._match.encoders}
        side = self._match.compare_px
        return [
            self._compare(
                to_square(picture, side),
                {name: found[0][i] for name, found in proposals.items()},
                {name: found[1][i] for name, found in proposals.items()},
            )
            for i, picture in enumerate(pictures)
        ]

    def square(self, image_id: int) -> npt.NDArray[np.uint8]:
        """A training picture at the common size, (s, s, 3)."""
        if image_id not in self._squares:
            picture = self.images.picture(image_id)
            self._squares[image_id] = to_square(picture, self._match.compare_px)
        return self._squares[image_id]

    def members(self, group: int) -> list[int]:
        """The image ids of a duplicate group, ascending."""
        return self._members[group]

    def nearest_group(self, groups: Sequence[int], others: Sequence[int]) -> list[Nearest]:
        """For each of `groups` (n,) the nearest of `others` (m,), ties to the smallest, by cosine.

        By the first picture of each group and the first descriptor; none where there is none, or
        no other group.
        """
        name = _first_descriptor(self._config, self._match)
        ranked = sorted(set(others))
        if name is None or not ranked or not groups:
            return []
        own, far = (
            unit(self._indexes[name].vectors(np.array([self._members[g][0] for g in some])))
            for some in (groups, ranked)
        )
        cosines = (own.astype(np.float64) @ far.T.astype(np.float64)).round(_DECIMALS)
        best = cosines.argmax(axis=1)
        return [(ranked[int(j)], float(cosines[i, j])) for i, j in enumerate(best)]

    def neighbours(self, group: int, count: int) -> list[int]:
        """Kept pictures of other groups, the `count` nearest to this group's own, nearest first.

        By the first descriptor of the configured encoders.
        """
        name = self._match.encoders[0]
        others = np.array([i for i in self._kept.tolist() if self.group_of[i] != group], np.int64)
        own = self._indexes[name].vectors(np.array(self._members[group][:1], np.int64))
        _, found = self._indexes[name].search(own, min(count, len(others)), allowed=others)
        return [int(image) for image in found[0] if image >= 0]

    def _propose(
        self, name: str, pictures: Sequence[Image.Image]
    ) -> tuple[list[Ids], npt.NDArray[Any]]:
        encoder = build_encoder(self._config.embed.encoders[name])
        vectors = encoder.encode(pictures).vectors
        wanted = min(self._match.candidates, len(self._kept))
        _, found = self._indexes[name].search(vectors, wanted, allowed=self._kept)
        return [row[row >= 0] for row in found], vectors

    def _compare(
        self,
        picture: npt.NDArray[np.uint8],
        found: dict[str, Ids],
        vectors: dict[str, npt.NDArray[Any]],
    ) -> list[Row]:
        candidates = np.unique(np.concatenate(list(found.values())))
        best = self._best_by_group(picture, candidates)
        if best:
            members = self._members[best[0]["group_id"]][:_MAX_MEMBERS]
            refined = self._best_by_group(picture, np.array(members, np.int64))
            best = sorted([*refined, *best[1:]], key=_nearness)
        l2_all = np.sort([row["l2"] for row in best])[:N_NEIGHBOURS]
        kept = best[: self._match.keep]
        kept += [row for row in sorted(best, key=_nearness_as_a_whole)[:1] if row not in kept]
        for rank, row in enumerate(kept):
            others = [other for other in best if other["group_id"] != row["group_id"]]
            row["rank"] = rank
            row["encoder"] = next(
                (n for n, ids in found.items() if row["image_id"] in ids), self._match.encoders[0]
            )
            empty = bool(is_blank(self.square(row["image_id"])[None])[0])
            row["blank"] = empty or row["group_id"] in self._placeholders
            row["nearest_ratio"] = _ratio(row["tiled_l2"], [o["tiled_l2"] for o in others])
            row["l2_ratio"] = _ratio(row["l2"], [o["l2"] for o in others])
            row["l2_ratio_50nn"] = float(adaptive_l2(np.array([row["l2"]]), l2_all[None])[0])
            row.update(self._masked(picture, row, others))
            row.update(self._descriptor(row["image_id"], vectors))
        return kept

    def _best_by_group(self, picture: npt.NDArray[np.uint8], ids: Ids) -> list[Row]:
        if not len(ids):
            return []
        squares = np.stack([self.square(int(i)) for i in ids])
        tiled = pairwise_tiled_l2(picture[None], squares)[0]
        whole = pairwise_l2(picture[None], squares)[0]
        best: dict[int, Row] = {}
        for image_id, t, w in zip(ids.tolist(), tiled.tolist(), whole.tolist(), strict=True):
            group = self.group_of[image_id]
            row = {"image_id": image_id, "group_id": group, "tiled_l2": t, "l2": w}
            if group not in best or _nearness(row) < _nearness(best[group]):
                best[group] = row
        return sorted(best.values(), key=_nearness)

    def _masked(self, picture: npt.NDArray[np.uint8], row: Row, others: list[Row]) -> Row:
        mask = self._mask(row["group_id"])
        if mask is None:
            return {"masked_l2": None, "masked_ratio": None}
        squares = np.stack([self.square(r["image_id"]) for r in (row, *others)])
        inside = masked_l2(np.repeat(picture[None], len(squares), axis=0), squares, mask)
        return {"masked_l2": float(inside[0]), "masked_ratio": _ratio(inside[0], inside[1:])}

    def _mask(self, group: int) -> npt.NDArray[np.bool_] | None:
        if group not in self._masks:
            squares = np.stack([self.square(i) for i in self._members[group][:_MAX_MEMBERS]])
            self._masks[group] = template_mask(np.unique(squares, axis=0))
        return self._masks[group]

    def _descriptor(self, image_id: int, vectors: dict[str, npt.NDArray[Any]]) -> Row:
        """Cosine and split product by the first descriptor of the configured encoders."""
        name = _first_descriptor(self._config, self._match)
        if name is None:
            return {"similarity": None, "split_product": None}
        own = self._indexes[name].vectors(np.array([image_id], np.int64))
        similarity = indexes.cosine(vectors[name][None], own)
        chunks = most_chunks(own.shape[1])
        product = split_product(vectors[name][None], own, chunks=chunks)
        return {"similarity": float(similarity[0]), "split_product": float(product[0])}


def most_chunks(dimension: int) -> int:
    """How many equal chunks a descriptor is cut into, 16 at most; a user's may be of any size."""
    return next(n for n in range(_MAX_CHUNKS, 0, -1) if dimension % n == 0)


def _nearness(row: Row) -> tuple[float, int]:
    return round(row["tiled_l2"], 6), row["image_id"]


def _nearness_as_a_whole(row: Row) -> tuple[float, int]:
    return round(row["l2"], 6), row["image_id"]


def _ratio(nearest: float, others: Sequence[float] | npt.NDArray[np.float64]) -> float | None:
    if not len(others):
        return None
    return float(nearest_ratio(np.array([nearest]), np.array([min(others)]))[0])
