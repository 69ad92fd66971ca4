"""borderline: pairs that a descriptor nearly takes in, those whose pictures align out.

A descriptor of the whole picture misses crops, writing, borders and pictures pasted into others:
their cosine lies among that of strangers. So of every picture the nearest ones that are no pairs
yet, down to a margin below the threshold, are aligned by local features and compared tile by tile
(pipeline.geometry). `similarity` stays the cosine, and is below the threshold; the reason
`verified` says what decided.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

import indexes
from indexes import Pairs
from pipeline.batches import batched
from pipeline.config import Borderline, joined_encoders
from pipeline.encoders import metric_of
from pipeline.encoders.pdq import mirror_of
from pipeline.errors import ShardCorrupt
from pipeline.geometry import LocalFeatures, Rule, local_features, same_picture
from pipeline.geometry.features import SIDE
from pipeline.increment import previous
from pipeline.io.images import ImageLimits, decode
from pipeline.io.manifest import count_accepted, read_images
from pipeline.io.runfolder import VERIFIED, list_image_parts, own_image_parts, pair_part, part_name
from pipeline.io.shards import read_member
from pipeline.io.tables import write_table
from pipeline.ordered import ordered_map
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.cells import open_cells
from pipeline.stages.pairs import (
    agreeing,
    cell_blocks,
    join_inputs,
    joined_thresholds,
    open_join,
    pair_table,
    read_compared,
    row_blocks,
)
from pipeline.stages.scan import image_limits, shards_of

NOT_THE_SAME = "not_the_same"
_ROWS = 10_000  # pictures a part: minutes
_PAIRS_AT_ONCE = 64
_CACHED = 4096  # pictures, 0.1 MB each


def plan(context: Context) -> list[Part]:
    """Parts as of the joins that are done by cosine, but shorter."""
    thresholds = joined_thresholds(context)
    encoders = context.config.embed.encoders
    hashes = [file for name in _hashes(context) for file in join_inputs(context, name)]
    rows = count_accepted(context.run, own_image_parts(context.run))
    parts = []
    for name in joined_encoders(context.config):
        if metric_of(encoders[name]) != "cosine":
            continue
        stored = open_cells(context.run, name)
        blocks = row_blocks(rows, _ROWS) if stored is None else cell_blocks(stored.cells, _ROWS)
        inputs = dict.fromkeys([*join_inputs(context, name), *hashes])
        parts += [
            Part(
                f"{name}-{part_name(n)}",
                tuple(inputs),
                {"encoder": name, "block": list(block), "thresholds": thresholds},
            )
            for n, block in enumerate(blocks)
        ]
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Write the verified pairs of one block."""
    candidates = _candidates(part, context)
    ids = np.union1d(candidates.id_a, candidates.id_b)
    pictures = _Pictures(_places(context, ids), image_limits(context), context.config.borderline)
    pairs = zip(candidates.id_a.tolist(), candidates.id_b.tolist(), strict=True)
    chunks = batched(pairs, _PAIRS_AT_ONCE)  # a task a pair would cost as much as the pair
    threads = context.config.runner.threads_per_part
    answers = ordered_map(pictures.agree_each, chunks, threads)
    same = np.fromiter(chain.from_iterable(answers), bool, len(candidates))
    found = Pairs(candidates.id_a[same], candidates.id_b[same], candidates.similarity[same])
    if context.config.pairs.max_pixel_l2 is not None:
        found = agreeing(found, context, context.config.pairs.max_pixel_l2)
    output = pair_part(VERIFIED, part.name)
    write_table(context.path(output), pair_table(found, ["verified"] * len(found)))
    n, n_found = len(candidates), len(found)
    rejected = {NOT_THE_SAME: n - n_found} if n > n_found else {}
    return Outcome((output,), n, n_found, rejected)


def _candidates(part: Part, context: Context) -> Pairs:
    """The nearest of each picture that are no pairs by this descriptor, nor by their hashes."""
    config, name = context.config.borderline, part.params["encoder"]
    thresholds: Mapping[str, float] = part.params["thresholds"]
    high = thresholds[name]
    low = max(high - config.margin, -1.0)
    first, end = part.params["block"]
    join = open_join(context, name, high)
    if join.cells is None:
        found = indexes.nearest_below(
            join.vectors,
            join.ids,
            config.neighbours,
            low=low,
            high=high,
            rows=slice(first, end),
            fresh=join.fresh,
        )
    else:
        found = indexes.cell_nearest_below(
            join.vectors,
            join.ids,
            join.cells,
            config.neighbours,
            low=low,
            high=high,
            owned=range(first, end),
            fresh=join.fresh,
        )
    for hashed in _hashes(context):
        found = _apart(found, context, hashed, thresholds[hashed])
    return found


def _hashes(context: Context) -> list[str]:
    encoders = context.config.embed.encoders
    return [
        name for name in joined_encoders(context.config) if metric_of(encoders[name]) == "hamming"
    ]


def _apart(pairs: Pairs, context: Context, name: str, bits: float) -> Pairs:
    """The pairs that are no pairs by the hashes `name`."""
    ids, codes = read_compared(context.run, name, context.config)
    mirror = mirror_of(context.config.pairs.pdq_variants)
    far = indexes.least_hamming(codes, ids, pairs.id_a, pairs.id_b, mirror=mirror) > bits
    return Pairs(pairs.id_a[far], pairs.id_b[far], pairs.similarity[far])


@dataclass(frozen=True)
class _Place:
    shard: Path
    offset: int
    size: int
    sha256: str


def _places(context: Context, ids: npt.NDArray[np.int64]) -> dict[int, _Place]:
    """Where the pictures lie; the manifest is read a shard at a time."""
    shards = _shards(context)
    columns = ["image_id", "dataset", "shard", "offset", "size", "sha256"]
    places = {}
    for name in list_image_parts(context.run):
        table = read_images(context.run, [name], columns=columns)
        wanted = np.isin(table["image_id"].to_numpy(), ids)
        for row in table.filter(wanted).to_pylist():
            path = shards[row["dataset"], row["shard"]]
            places[row["image_id"]] = _Place(path, row["offset"], row["size"], row["sha256"])
    return places


def _shards(context: Context) -> dict[tuple[str, str], Path]:
    """The shards of this run and of those that it is added to, by data set and name."""
    shards: dict[tuple[str, str], Path] = {}
    run: Context | None = context
    while run is not None:
        for shard in shards_of(run):
            shards.setdefault((run.config.dataset.name, shard.name), shard.path)
        run = previous(run)
    return shards


class _Pictures:
    """Local features by image id, the latest of them kept. Safe to use from several threads."""

    def __init__(
        self, places: Mapping[int, _Place], limits: ImageLimits, config: Borderline
    ) -> None:
        self._places, self._limits, self._keypoints = places, limits, config.keypoints
        self._rule = Rule(inliers=config.inliers)
        self._features = lru_cache(_CACHED)(self._extract)

    def agree_each(self, pairs: Sequence[tuple[int, int]]) -> list[bool]:
        """`agree` of several pairs."""
        return [self.agree(*pair) for pair in pairs]

    def agree(self, id_a: int, id_b: int) -> bool:
        """Whether both show the same; in the order of digests, for ids change with sharding."""
        first, second = sorted((id_a, id_b), key=lambda image_id: self._places[image_id].sha256)
        return same_picture(self._features(first), self._features(second), self._rule)

    def _extract(self, image_id: int) -> LocalFeatures:
        place = self._places[image_id]
        with place.shard.open("rb") as handle:
            data = read_member(handle, place.offset, place.size)
        if hashlib.sha256(data).hexdigest() != place.sha256:  # no input of a part: there are many
            raise ShardCorrupt(f"{place.shard}: changed since it was scanned; run again")
        return local_features(decode(data, self._limits, least_side=SIDE), self._keypoints)


STAGE = Stage("borderline", 2, ("borderline", "pairs", "embed", "scan"), plan, run)
