"""hubs: vectors in, the pictures that have so many near-duplicates that a star must do out.

All pairs of a million encodings of one placeholder would be 5e11 rows. indexes.hubs finds such
pictures: of a hub the pairs with its leader are written here, and in the join only the leader takes
part. So the tables of pairs are complete but for two kinds: pairs of members of one hub, which are
near-duplicates of each other because each is within half the threshold's angle of the leader, and
pairs of a member other than the leader with a picture outside.

Vectors are read a few parts at a time, twice. Where pairs must agree in colour, too
(pairs.max_pixel_l2), being near does not make a pair, and no hub is sought.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

import indexes
from indexes.hubs import SAMPLE
from pipeline.encoders import metric_of
from pipeline.io import schemas
from pipeline.io.runfolder import (
    HUBS_PART,
    REKEYED,
    hubs_file,
    image_part,
    list_embedding_parts,
    list_image_parts,
    pair_part,
    read_centres,
    read_embeddings,
    read_images,
)
from pipeline.io.tables import table_from_columns, write_table
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.pairs import joined_thresholds

_PARTS_AT_ONCE = 8
_REASON = "hub"

Block = tuple[npt.NDArray[np.int64], npt.NDArray[Any]]


def plan(context: Context) -> list[Part]:
    """One part a joined encoder; none where the set is too small for a hub."""
    config = context.config.pairs
    if not config.hub_size or config.max_pixel_l2 is not None:
        return []
    if read_images(context.run, columns=["image_id"]).num_rows <= config.hub_size:
        return []
    manifest = tuple(image_part(name) for name in list_image_parts(context.run))
    parts = []
    for name, threshold in joined_thresholds(context).items():
        files = list_embedding_parts(context.run, name)
        inputs = tuple(path for file in files for path in (file.vectors, file.metadata))
        params = {"encoder": name, "threshold": threshold}
        parts.append(Part(name, (*manifest, REKEYED, *inputs), params))
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Write the hubs of one encoder, and their stars as pairs."""
    name, threshold = part.params["encoder"], part.params["threshold"]
    size, metric = context.config.pairs.hub_size, metric_of(context.config.embed.encoders[name])
    sample_ids, sample, population = _sample(name, context)
    rows = indexes.hub_leaders(sample, population, threshold, size, metric)
    found: list[tuple[npt.NDArray[Any], ...]] = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    if len(rows):
        for ids, vectors in _blocks(name, context):
            place, similarity = indexes.nearest_leader(vectors, sample[rows], threshold, metric)
            inside = place >= 0
            leader = sample_ids[rows[place[inside]]]
            found.append((leader, ids[inside], similarity[inside]))
    leaders, members, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    hubs = indexes.make_hubs(leaders, members, scores, size)
    columns = (hubs.leader, hubs.member, hubs.similarity)
    table = dict(zip(schemas.HUBS.names, columns, strict=True))
    outputs = hubs_file(name), pair_part(name, HUBS_PART)
    write_table(context.path(outputs[0]), table_from_columns(table, schemas.HUBS))
    star = hubs.leader != hubs.member
    ends = np.sort(np.stack([hubs.leader[star], hubs.member[star]]), axis=0)
    order = np.lexsort((ends[1], ends[0]))
    pairs = {
        "id_a": ends[0][order],
        "id_b": ends[1][order],
        "similarity": hubs.similarity[star][order],
        "reason": [_REASON] * len(order),
    }
    write_table(context.path(outputs[1]), table_from_columns(pairs, schemas.PAIRS))
    return Outcome(outputs, population, population)


def _sample(name: str, context: Context) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], int]:
    """Ids and vectors of a sample, in the order of ids, and how many it was drawn from."""
    every = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in _blocks(name, context))])
    every.sort()
    rng = np.random.default_rng(context.config.seed)
    chosen = np.sort(rng.choice(len(every), min(SAMPLE, len(every)), replace=False))
    wanted, vectors, ids = every[chosen], [], []
    for own, block in _blocks(name, context):
        inside = np.isin(own, wanted)
        ids.append(own[inside])
        vectors.append(block[inside])
    if not ids:
        return wanted, np.zeros((0, 1), np.float32), 0
    order = np.argsort(np.concatenate(ids))
    return wanted, np.concatenate([v for v in vectors if len(v)])[order], len(every)


def _blocks(name: str, context: Context) -> Iterator[Block]:
    """Ids and vectors of the centres that the join would compare, a few parts at a time."""
    centres = read_centres(context.run)
    cosine = metric_of(context.config.embed.encoders[name]) == "cosine"
    quality = None if cosine else context.config.pairs.pdq_min_quality
    files = iter(list_embedding_parts(context.run, name))
    while names := [file.name for file in islice(files, _PARTS_AT_ONCE)]:
        ids, vectors = read_embeddings(
            context.run, name, names, normalise=cosine, min_quality=quality
        )
        inside = np.isin(ids, centres)
        if inside.any():
            yield ids[inside], vectors[inside]


STAGE = Stage("hubs", 1, ("pairs", "embed"), plan, run)
