"""hubs: vectors in, the pictures that have so many near-duplicates that a star must do out.

All pairs of a million encodings of one placeholder would be 5e11 rows. indexes.hubs finds such
pictures: of a hub the pairs with its leader are written here, and in the join only the leader takes
part. So the tables of pairs are complete but for two kinds: pairs of members of one hub, which are
near-duplicates of each other because each is within half the threshold's angle of the leader, and
pairs of a member other than the leader with a picture outside. What was a hub in the run that this
one was added to stays one. Of a picture's hashes only its own makes hubs, none that is mirrored or
without a border.

Vectors are read a few parts at a time, twice. Where pairs must agree in colour, too
(pairs.max_pixel_l2), being near does not make a pair, and no hub is sought.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

import indexes
from indexes import Hubs
from indexes.hubs import SAMPLE
from pipeline.encoders import metric_of
from pipeline.io import schemas
from pipeline.io.embeddings import read_embeddings
from pipeline.io.manifest import read_centres, read_images
from pipeline.io.runfolder import (
    HUBS_PART,
    REKEYED,
    hubs_file,
    image_part,
    list_embedding_parts,
    list_image_parts,
    old_hubs_file,
    pair_part,
)
from pipeline.io.tables import read_table, table_from_columns, write_table
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.pairs import joined_thresholds

_PARTS_AT_ONCE = 8
_REASON = "hub"

Ids = npt.NDArray[np.int64]
Block = tuple[Ids, npt.NDArray[Any]]


def plan(context: Context) -> list[Part]:
    """One part a joined encoder; none where the set is too small for a hub."""
    config = context.config.pairs
    if config.max_pixel_l2 is not None:
        return []
    rows = read_images(context.run, columns=["image_id"]).num_rows
    sought = 0 < config.hub_size < rows
    manifest = tuple(image_part(name) for name in list_image_parts(context.run))
    parts = []
    for name, threshold in joined_thresholds(context).items():
        files = list_embedding_parts(context.run, name)
        inputs = tuple(path for file in files for path in (file.vectors, file.metadata))
        known = context.path(old_hubs_file(name)).is_file()
        if not (sought or known):
            continue
        inputs += (old_hubs_file(name),) if known else ()
        params = {"encoder": name, "threshold": threshold}
        parts.append(Part(name, (*manifest, REKEYED, *inputs), params))
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Write the hubs of one encoder, and their stars as pairs."""
    name, threshold = part.params["encoder"], part.params["threshold"]
    size, metric = context.config.pairs.hub_size, metric_of(context.config.embed.encoders[name])
    old = _old_hubs(name, context)
    leader_ids, leading, population = _leaders(name, threshold, old, context)
    found = [(old.leader, old.member, old.similarity)]
    for ids, vectors in _blocks(name, context) if len(leader_ids) else ():
        place, similarity = indexes.nearest_leader(vectors, leading, threshold, metric)
        inside = (place >= 0) & ~np.isin(ids, old.member)  # what was in a hub stays in it
        found.append((leader_ids[place[inside]], ids[inside], similarity[inside]))
    leaders, members, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    hubs = indexes.make_hubs(leaders, members, scores, size, known=old.leader)
    columns = (hubs.leader, hubs.member, hubs.similarity)
    table = dict(zip(schemas.HUBS.names, columns, strict=True))
    outputs = hubs_file(name), pair_part(name, HUBS_PART)
    write_table(context.path(outputs[0]), table_from_columns(table, schemas.HUBS))
    star = (hubs.leader != hubs.member) & ~np.isin(hubs.member, old.member)  # those are written
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


def _old_hubs(name: str, context: Context) -> Hubs:
    """The hubs of the run that this one was added to: they stay, since their pairs are missing."""
    path = context.path(old_hubs_file(name))
    table = read_table(path, schemas.HUBS) if path.is_file() else schemas.HUBS.empty_table()
    return Hubs(*(table[column].to_numpy() for column in schemas.HUBS.names))


def _leaders(name: str, threshold: float, old: Hubs, context: Context) -> tuple[Ids, Any, int]:
    """Ids and vectors of all that may lead a hub, those that did first; how many were looked at."""
    size, metric = context.config.pairs.hub_size, metric_of(context.config.embed.encoders[name])
    every = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in _blocks(name, context))])
    free = np.setdiff1d(every, old.member)
    rng = np.random.default_rng(context.config.seed)
    wanted = np.sort(rng.choice(free, min(SAMPLE, len(free)), replace=False)) if size else free[:0]
    ids, vectors = _chosen(name, context, np.union1d(wanted, old.leader))
    led = np.isin(ids, old.leader)
    near, _ = indexes.nearest_leader(vectors, vectors[led], threshold, metric)
    sample = np.flatnonzero(near < 0)
    rows = indexes.hub_leaders(vectors[sample], len(free), threshold, size, metric)
    leading = np.concatenate([np.flatnonzero(led), sample[rows]])
    return ids[leading], vectors[leading], len(every)


def _chosen(name: str, context: Context, wanted: Ids) -> Block:
    """Those of the ids `wanted` that have a vector, ascending, with it."""
    ids, vectors = [np.zeros(0, np.int64)], []
    for own, block in _blocks(name, context):
        inside = np.isin(own, wanted)
        if inside.any():
            ids.append(own[inside])
            vectors.append(block[inside])
    if not vectors:
        return ids[0], np.zeros((0, 1), np.float32)
    order = np.argsort(np.concatenate(ids))
    return np.concatenate(ids)[order], np.concatenate(vectors)[order]


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
