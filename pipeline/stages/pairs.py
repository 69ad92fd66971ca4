"""pairs: vectors in, every pair of near-duplicates out, each with its reason.

A cascade. Exact copies (equal bytes, then equal pixels) collapse first, as a star around the
smallest id: a million copies of a placeholder are a million rows, not their square. So do a
million near-duplicates of one picture (the stage `hubs`). The centres are then joined by PDQ, also
mirrored and without borders (the similarity is that of the nearest two of all hashes), and by
each descriptor that has a threshold: all with all, or in cells where they are many.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

import indexes
from indexes import Pairs
from indexes.cells import REACH
from pipeline.calibration.record import read_calibration
from pipeline.config import PIXELS, RunConfig, joined_encoders
from pipeline.encoders import Metric, build_encoder, metric_of
from pipeline.encoders.pdq import mirror_of
from pipeline.io import schemas
from pipeline.io.embeddings import read_embeddings
from pipeline.io.manifest import (
    DIGESTS,
    count_accepted,
    exact_keys,
    read_centres,
    read_images,
    read_own_ids,
)
from pipeline.io.runfolder import (
    EXACT,
    REKEYED,
    hubs_file,
    image_part,
    list_embedding_parts,
    list_image_parts,
    own_image_parts,
    pair_part,
    part_name,
    read_hub_members,
)
from pipeline.io.tables import table_from_columns, write_table
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.cells import cell_files, open_cells

Ids = npt.NDArray[np.int64]
Embeddings = tuple[Ids, npt.NDArray[Any]]


def plan(context: Context) -> list[Part]:
    """One part for exact copies, then one a block of rows, or of cells, for each joined encoder."""
    parts = [Part(EXACT, _manifest(context), {"encoder": EXACT, "block": [0, 0]})]
    size = context.config.pairs.rows_per_part
    rows = count_accepted(context.run, own_image_parts(context.run))
    for name, threshold in joined_thresholds(context).items():
        stored = open_cells(context.run, name)
        blocks = row_blocks(rows, size) if stored is None else cell_blocks(stored.cells, size)
        inputs = join_inputs(context, name)
        parts += [
            Part(
                f"{name}-{part_name(n)}",
                inputs,
                {"encoder": name, "block": list(block), "threshold": threshold},
            )
            for n, block in enumerate(blocks)
        ]
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Write the pairs that one block of rows or cells owns."""
    name = part.params["encoder"]
    output = pair_part(name, part.name.removeprefix(f"{name}-") if name != EXACT else EXACT)
    if name == EXACT:
        table, rows = _exact_pairs(context)
        write_table(context.path(output), table)
        return Outcome((output,), rows, rows)
    first, end = part.params["block"]
    join = open_join(context, name, part.params["threshold"])
    found, rows = _join(join, first, end, context.config.pairs.max_pairs)
    if context.config.pairs.max_pixel_l2 is not None:
        found = agreeing(found, context, context.config.pairs.max_pixel_l2)
    reason = "pdq" if join.metric == "hamming" else "descriptor"
    write_table(context.path(output), pair_table(found, [reason] * len(found)))
    featureless = _featureless(context, name, join) if first == 0 else 0  # counted once
    rejected = {"featureless": featureless} if featureless else {}
    return Outcome((output,), rows + featureless, rows, rejected)


def joined_thresholds(context: Context) -> dict[str, float]:
    """How near is near for each joined encoder: least cosine, or for PDQ most bits.

    In the parts' parameters, so that a changed calibration is seen. Raises ConfigError for an
    encoder that the calibration does not know.
    """
    config = context.config
    encoders, path = config.embed.encoders, config.pairs.calibration
    names = joined_encoders(config)
    if path is None:
        bits = float(config.pairs.pdq_max_distance)
        pdq = [name for name in names if metric_of(encoders[name]) == "hamming"]
        return {name: bits if name in pdq else config.pairs.min_similarity[name] for name in names}
    calibration = read_calibration(path)
    thresholds: dict[str, float] = {}
    for name in names:
        fingerprint = build_encoder(encoders[name], config.model.device).fingerprint
        entry = calibration.threshold(name, fingerprint, source=path)
        found = entry.min_similarity if entry.max_distance is None else entry.max_distance
        thresholds[name] = float(found or 0)
    return thresholds


def join_inputs(context: Context, name: str) -> tuple[str, ...]:
    """What the join of an encoder reads, relative to the run folder."""
    names = [PIXELS] if context.config.pairs.max_pixel_l2 is not None else []
    cells = cell_files(name) if open_cells(context.run, name) else ()
    names += [] if cells else [name]
    files = [file for n in names for file in list_embedding_parts(context.run, n)]
    embeddings = tuple(path for file in files for path in (file.vectors, file.metadata))
    hubs = [hubs_file(name)] if context.path(hubs_file(name)).is_file() else []
    # what lies in cells was chosen when these were filled; each name more is held by the driver
    return (*(() if cells else _manifest(context)), *cells, *embeddings, *hubs)


@dataclass(frozen=True, eq=False)
class Join:
    """What is joined: vectors (n, d) or codes of the centres, their ids, and how near is near.

    Of codes an id may have several; `mirror` is the mask of indexes.hamming_join. `reach` is how
    near a border is (indexes.cells).
    """

    ids: npt.NDArray[np.int64]
    vectors: npt.NDArray[Any]
    metric: Metric
    threshold: float
    mirror: npt.NDArray[np.uint8] | None = None
    cells: indexes.Cells | None = None
    fresh: npt.NDArray[np.bool_] | None = None
    reach: float = REACH


def open_join(context: Context, name: str, threshold: float) -> Join:
    """The vectors of one encoder, and the cells that they are in where there are too many."""
    metric = metric_of(context.config.embed.encoders[name])
    stored = open_cells(context.run, name)
    if stored is not None:
        fresh = _fresh(context, stored.ids)
        found = stored.ids, stored.vectors, metric, threshold
        return Join(*found, cells=stored.cells, fresh=fresh, reach=context.config.pairs.reach)
    centres = np.setdiff1d(read_centres(context.run), read_hub_members(context.run, name))
    ids, vectors = read_compared(context.run, name, context.config)
    ids, vectors = ids[np.isin(ids, centres)], vectors[np.isin(ids, centres)]
    mirror = mirror_of(context.config.pairs.pdq_variants) if metric == "hamming" else None
    return Join(ids, vectors, metric, threshold, mirror, fresh=_fresh(context, ids))


def read_compared(
    run: Path, name: str, config: RunConfig, parts: Collection[str] | None = None
) -> Embeddings:
    """What two pictures are compared by, sorted by id: unit vectors, or hashes that say something.

    With `trimmed` among the variants an id may have two hashes.
    """
    metric = metric_of(config.embed.encoders[name])
    if metric != "hamming":
        return read_embeddings(run, name, parts, normalise=metric == "cosine")
    return read_embeddings(
        run,
        name,
        parts,
        normalise=False,
        min_quality=config.pairs.pdq_min_quality,
        trimmed="trimmed" in config.pairs.pdq_variants,
    )


def _fresh(context: Context, ids: Ids) -> npt.NDArray[np.bool_] | None:
    """Which pictures an earlier run has not joined with each other; None where there is none."""
    own = read_own_ids(context.run)
    return None if own is None else np.isin(ids, own)


def _featureless(context: Context, name: str, join: Join) -> int:
    """How many pictures have a hash of too low a quality to be compared."""
    if join.metric != "hamming":
        return 0
    every, _ = read_embeddings(context.run, name, normalise=False)
    compared = len(np.unique(join.ids)) + len(read_hub_members(context.run, name))
    return int(np.isin(every, read_centres(context.run)).sum()) - compared


def _join(join: Join, first: int, end: int, most: int) -> tuple[Pairs, int]:
    """The pairs that rows, or cells, first to end - 1 own, and how many pictures these are."""
    ids, vectors = join.ids, join.vectors
    if join.cells is not None:
        owned = range(first, end)
        rows = int(np.isin(join.cells.probes[:, 0], owned).sum())
        pairs = indexes.cell_join(
            vectors,
            ids,
            join.cells,
            join.threshold,
            owned=owned,
            max_pairs=most,
            fresh=join.fresh,
            reach=join.reach,
        )
        return pairs, rows
    block = slice(first, end)
    if join.metric == "hamming":
        bits = int(join.threshold)
        pairs = indexes.hamming_join(
            vectors,
            ids,
            bits,
            mirror=join.mirror,
            rows=block,
            max_pairs=most,
            fresh=join.fresh,
        )
    else:
        pairs = indexes.self_join(
            vectors, ids, join.threshold, rows=block, max_pairs=most, fresh=join.fresh
        )
    return pairs, len(np.unique(ids if join.fresh is None else ids[join.fresh])[block])


def row_blocks(rows: int, size: int) -> list[tuple[int, int]]:
    """Runs of `size` rows, one at least."""
    return [(start, start + size) for start in range(0, max(rows, 1), size)]


def cell_blocks(cells: indexes.Cells, size: int) -> list[tuple[int, int]]:
    """Runs of cells that hold about `size` vectors, at least one cell each."""
    ends = np.cumsum(np.bincount(cells.probes[:, 0], minlength=len(cells)))
    cuts = np.searchsorted(ends, np.arange(size, int(ends[-1]), size)) + 1
    edges = sorted({0, *cuts.tolist(), len(cells)})
    return list(pairwise(edges))


def _manifest(context: Context) -> tuple[str, ...]:
    return (*(image_part(name) for name in list_image_parts(context.run)), REKEYED)


def _exact_pairs(context: Context) -> tuple[pa.Table, int]:
    images = read_images(context.run, columns=["image_id", *DIGESTS])
    ids = images["image_id"].to_numpy()
    star = indexes.stars(exact_keys(images), ids)
    order = np.argsort(ids)
    ends = [order[np.searchsorted(ids, end, sorter=order)] for end in (star.id_a, star.id_b)]
    reasons: Any = "descriptor"  # the vectors are equal, of which nothing else is known
    for name, reason in (("pixel_sha256", "pixels"), ("sha256", "bytes")):
        column = images[name].combine_chunks()
        same = pc.equal(*(column.take(pa.array(rows)) for rows in ends))
        reasons = pc.if_else(pc.fill_null(same, False), reason, reasons)
    return pair_table(star, reasons), len(ids)


def agreeing(pairs: Pairs, context: Context, max_l2: float) -> Pairs:
    """The pairs whose pictures are also near pixel by pixel, at the size of `pixels`."""
    pixels = read_embeddings(context.run, PIXELS, normalise=False)
    near = near_in_pixels(pixels, pixels, pairs.id_a, pairs.id_b, max_l2)
    return Pairs(pairs.id_a[near], pairs.id_b[near], pairs.similarity[near])


def near_in_pixels(
    first: Embeddings, second: Embeddings, id_a: Ids, id_b: Ids, max_l2: float
) -> npt.NDArray[np.bool_]:
    """Which of the pictures id_a (of `first`) and id_b (of `second`) are at most `max_l2` apart.

    Both sets are ids, ascending, with the vectors of the encoder `pixels`.
    """
    (ids_a, vectors_a), (ids_b, vectors_b) = first, second
    rows_a, rows_b = np.searchsorted(ids_a, id_a), np.searchsorted(ids_b, id_b)
    return np.asarray(indexes.euclidean(vectors_a[rows_a], vectors_b[rows_b]) <= max_l2)


def pair_table(pairs: Pairs, reasons: Any) -> pa.Table:
    """The rows of a pairs table; `reasons` one a pair."""
    columns = {
        "id_a": pairs.id_a,
        "id_b": pairs.id_b,
        "similarity": pairs.similarity,
        "reason": reasons,
    }
    return table_from_columns(columns, schemas.PAIRS)


STAGE = Stage("pairs", 3, ("embed", "pairs"), plan, run)
