"""against: training pictures that an evaluation set holds too (decontamination).

The cascade of `pairs`, across two sets: equal bytes or pixels, then PDQ and each descriptor at the
thresholds of the run. A part compares one shard's pictures with all evaluation sets and writes the
nearest evaluation picture of each one that has any. Sets keep their own ids: a training picture
and an evaluation picture may well have the same shard name and key.

An evaluation set is a finished `dedup` run, or shards, which the job scans and embeds first in a
run folder of their own (see pipeline.jobs).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import indexes
from indexes.binary import BITS
from pipeline.config import PIXELS, RunConfig
from pipeline.encoders import metric_of
from pipeline.encoders.pdq import mirror_of
from pipeline.errors import InputError, MissingInput
from pipeline.io import schemas
from pipeline.io.embeddings import read_embeddings
from pipeline.io.manifest import DIGESTS, exact_keys, read_images
from pipeline.io.runfolder import (
    REKEYED,
    contamination_part,
    image_part,
    list_embedding_parts,
    list_image_parts,
)
from pipeline.io.tables import read_parts, table_from_columns, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.evalsets import EvalSet, compared_encoders, eval_sets
from pipeline.stages.pairs import joined_thresholds, near_in_pixels, read_compared

CONTAMINATED = "contaminated"
_RANK = {"bytes": 0, "pixels": 1, "pdq": 2, "descriptor": 3}
_ROWS_AT_ONCE = 2048

Ids = npt.NDArray[np.int64]


def plan(context: Context) -> list[Part]:
    """One part a shard of the training set."""
    sets = eval_sets(context)
    shared: list[str] = []
    for eval_set in sets:
        folders = ["images", *(f"embeddings/{name}" for name in compared_encoders(context))]
        shared += [relative(eval_set.run / folder, context.run) for folder in folders]
    files: dict[str, list[str]] = {}
    for name in compared_encoders(context):
        for file in list_embedding_parts(context.run, name):
            files.setdefault(file.name, []).extend((file.vectors, file.metadata))
    params = {
        "sets": [eval_set.name for eval_set in sets],
        "thresholds": joined_thresholds(context),
    }
    return [
        Part(name, (image_part(name), REKEYED, *files.get(name, ()), *shared), params)
        for name in list_image_parts(context.run)
    ]


def run(part: Part, context: Context) -> Outcome:
    """Write the contaminated pictures of one shard, each with its nearest evaluation picture."""
    columns = ["image_id", *DIGESTS]
    images = read_images(context.run, [part.name], columns=columns)
    found = _Nearest()
    for eval_set in eval_sets(context):
        reference = _Reference(eval_set)
        found.add(eval_set.name, _exact(images, reference))
        for name, threshold in part.params["thresholds"].items():
            found.add(eval_set.name, _join(part.name, name, threshold, reference, context))
    output = contamination_part(part.name)
    write_rows(context.path(output), found.rows(), schemas.CONTAMINATION)
    return Outcome((output,), images.num_rows, images.num_rows)


def list_contamination(context: Context) -> list[str]:
    """The tables of this stage, where the run is configured to have it.

    Raises MissingInput where it has not run: what was not compared must not pass as clean.
    """
    if not context.config.against:
        return []
    paths = sorted(context.run.glob(contamination_part("*")))
    if not paths:
        raise MissingInput(
            f"{context.run}: not compared with {context.config.against[0]}; run the "
            "stage against before groups"
        )
    return [path.relative_to(context.run).as_posix() for path in paths]


def read_contamination(context: Context, images: pa.Table) -> pa.Table:
    """The contaminated ones of `images` (image_id and DIGESTS), sorted by id.

    A picture is contaminated if an exact copy of it is: its own vector may have been given, and
    differ.
    """
    paths = [context.path(name) for name in list_contamination(context)]
    found = read_parts(paths, schemas.CONTAMINATION).sort_by("image_id")
    order = np.argsort(images["image_id"].to_numpy())
    ids = images["image_id"].to_numpy()[order]
    classes = indexes.exact_classes(exact_keys(images), images["image_id"].to_numpy())[order]
    bad = found["image_id"].to_numpy()
    bad, rows = bad[np.isin(bad, ids)], np.flatnonzero(np.isin(bad, ids))
    known, first = np.unique(classes[np.searchsorted(ids, bad)], return_index=True)
    chosen = np.isin(classes, known)
    source = rows[first[np.searchsorted(known, classes[chosen])]] if len(known) else rows
    own = np.isin(ids[chosen], bad)
    source[own] = rows[np.searchsorted(bad, ids[chosen][own])]
    table = found.take(pa.array(source, pa.int64()))
    columns = {name: table[name] for name in schemas.CONTAMINATION.names}
    return table_from_columns(columns | {"image_id": ids[chosen]}, schemas.CONTAMINATION)


@dataclass(frozen=True)
class _Match:
    image_id: int
    shard: str
    key: str
    similarity: float
    reason: str


class _Reference:
    """An evaluation set, one picture for each class of exact copies, in the order of its keys."""

    def __init__(self, eval_set: EvalSet) -> None:
        self.set = eval_set
        names = ["image_id", "shard", "key", *DIGESTS]
        table = read_images(eval_set.run, columns=names)
        ids = table["image_id"].to_numpy()
        centre = indexes.exact_classes(exact_keys(table), ids) == ids
        self._place: dict[int, tuple[str, str]] = {}
        self.digests: dict[str, dict[str, tuple[str, str]]] = {"sha256": {}, "pixel_sha256": {}}
        rows = sorted(table.to_pylist(), key=lambda row: (row["shard"], row["key"]))
        for row in rows:
            place = (row["shard"], row["key"])
            self._place[row["image_id"]] = place
            for name, known in self.digests.items():
                if row[name]:
                    known.setdefault(row[name], place)
        self._centres = ids[centre]
        self._order = {row["image_id"]: rank for rank, row in enumerate(rows)}

    def place(self, image_id: int) -> tuple[str, str]:
        """Shard and key."""
        return self._place[image_id]

    def vectors(self, encoder: str, config: RunConfig) -> tuple[Ids, npt.NDArray[Any]]:
        """Ids and vectors of the centres, in the order of shard and key."""
        ids, vectors = read_compared(self.set.run, encoder, config)
        rows = np.flatnonzero(np.isin(ids, self._centres))
        order = sorted(rows.tolist(), key=lambda row: self._order[int(ids[row])])
        return ids[order], vectors[order]


@dataclass
class _Nearest:
    """The nearest evaluation picture of each training picture seen so far."""

    _best: dict[int, tuple[tuple[float, int, str, str, str], str]] = field(default_factory=dict)

    def add(self, name: str, matches: Iterator[_Match]) -> None:
        for match in matches:
            rank = (-match.similarity, _RANK[match.reason], name, match.shard, match.key)
            known = self._best.get(match.image_id)
            if known is None or rank < known[0]:
                self._best[match.image_id] = (rank, match.reason)

    def rows(self) -> list[dict[str, object]]:
        return [
            {
                "image_id": image_id,
                "eval_dataset": name,
                "eval_shard": shard,
                "eval_key": key,
                "similarity": -negative,
                "reason": reason,
            }
            for image_id, ((negative, _, name, shard, key), reason) in sorted(self._best.items())
        ]


def _exact(images: pa.Table, reference: _Reference) -> Iterator[_Match]:
    for row in images.to_pylist():
        for name, reason in (("sha256", "bytes"), ("pixel_sha256", "pixels")):
            place = reference.digests[name].get(row[name]) if row[name] else None
            if place is not None:
                yield _Match(row["image_id"], *place, 1.0, reason)


def _join(
    part: str, name: str, threshold: float, reference: _Reference, context: Context
) -> Iterator[_Match]:
    config = context.config.pairs
    metric = metric_of(context.config.embed.encoders[name])
    hamming = metric == "hamming"
    ids, vectors = read_compared(context.run, name, context.config, [part])
    their_ids, theirs = reference.vectors(name, context.config)
    if not len(ids) or not len(their_ids):
        return
    if vectors.shape[1] != theirs.shape[1]:
        raise InputError(
            f"{reference.set.address}: vectors of {name} are {theirs.shape[1]} wide, the training "
            f"set's {vectors.shape[1]}; not of one encoder"
        )
    mirror = mirror_of(config.pdq_variants) if hamming else None
    if mirror is not None:
        theirs = np.concatenate([theirs, theirs ^ mirror])
    if config.max_pixel_l2 is not None:
        pixels = read_embeddings(context.run, PIXELS, [part], normalise=False)
        their_pixels = read_embeddings(reference.set.run, PIXELS, normalise=False)
    reason = "pdq" if hamming else "descriptor"
    for start in range(0, len(ids), _ROWS_AT_ONCE):  # what is found is not bounded by anything else
        block = vectors[start : start + _ROWS_AT_ONCE]
        rows, places, scores = indexes.range_pairs(block, theirs, threshold, metric)
        places %= len(their_ids)  # the second half are the mirrored
        own, other = ids[start + rows], their_ids[places]
        nearness = 1 - scores / BITS if hamming else scores
        if config.max_pixel_l2 is not None:
            near = near_in_pixels(pixels, their_pixels, own, other, config.max_pixel_l2)
            own, other, places, nearness = own[near], other[near], places[near], nearness[near]
        order = np.lexsort((places, -nearness, own))
        chosen = order[np.unique(own[order], return_index=True)[1]]
        for row in chosen.tolist():
            place = reference.place(int(other[row]))
            yield _Match(int(own[row]), *place, float(nearness[row]), reason)


STAGE = Stage("against", 1, ("embed", "pairs"), plan, run)
