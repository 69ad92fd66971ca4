"""pairs: vectors in, every pair of near-duplicates out, each with its reason.

A cascade. Exact copies (equal bytes, then equal pixels) collapse first, as a star around the
smallest id: a million copies of a placeholder are a million rows, not their square. The centres
are then joined by PDQ and by each descriptor that has a threshold; those pairs are complete.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import indexes
from indexes import Pairs
from pipeline.config import PIXELS
from pipeline.encoders import metric_of
from pipeline.io import schemas
from pipeline.io.runfolder import (
    REKEYED,
    image_part,
    list_embedding_parts,
    list_image_parts,
    pair_part,
    part_name,
    read_embeddings,
    read_images,
)
from pipeline.io.tables import table_from_columns, write_table
from pipeline.runner.part import Context, Outcome, Part, Stage

EXACT = "exact"


def plan(context: Context) -> list[Part]:
    """One part for exact copies, then one a block of rows for each joined encoder."""
    manifest = tuple(image_part(name) for name in list_image_parts(context.run))
    manifest += (REKEYED,)
    parts = [Part(EXACT, manifest, {"encoder": EXACT, "block": 0})]
    confirming = [] if context.config.pairs.max_pixel_l2 is None else [PIXELS]
    for name in joined_encoders(context):
        files = [f for n in (name, *confirming) for f in list_embedding_parts(context.run, n)]
        inputs = manifest + tuple(path for f in files for path in (f.vectors, f.metadata))
        rows = read_images(context.run, columns=["image_id"]).num_rows
        blocks = max(1, -(-rows // context.config.pairs.rows_per_part))
        for block in range(blocks):
            params = {"encoder": name, "block": block}
            parts.append(Part(f"{name}-{part_name(block)}", inputs, params))
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Write the pairs that one block of rows owns."""
    name, block = part.params["encoder"], part.params["block"]
    output = pair_part(name, part_name(block))
    if name == EXACT:
        table, rows = _exact_pairs(context)
        write_table(context.path(output), table)
        return Outcome((output,), rows, rows)
    join = _join(context, name, block)
    write_table(context.path(output), join.table)
    rejected = {"featureless": join.featureless} if join.featureless else {}
    return Outcome((output,), join.rows + join.featureless, join.rows, rejected)


def joined_encoders(context: Context) -> list[str]:
    """Encoders whose pairs are searched: PDQ, and each with a similarity threshold."""
    config = context.config
    return [
        name
        for name, spec in config.embed.encoders.items()
        if spec.kind == "pdq" or name in config.pairs.min_similarity
    ]


def exact_keys(table: pa.Table) -> list[str]:
    """What makes two rows exact copies: equal pixels, which equal bytes imply."""
    return list(table["pixel_sha256"].to_pylist())


@dataclass(frozen=True)
class _Join:
    table: pa.Table
    rows: int
    featureless: int


def _exact_pairs(context: Context) -> tuple[pa.Table, int]:
    images = read_images(context.run, columns=["image_id", "sha256", "pixel_sha256"])
    ids = images["image_id"].to_numpy()
    star = indexes.stars(exact_keys(images), ids)
    digest = dict(zip(ids.tolist(), images["sha256"].to_pylist(), strict=True))
    reasons = [
        "bytes" if digest[a] == digest[b] else "pixels"
        for a, b in zip(star.id_a.tolist(), star.id_b.tolist(), strict=True)
    ]
    return _table(star, reasons), len(ids)


def _join(context: Context, name: str, block: int) -> _Join:
    config = context.config.pairs
    metric = metric_of(context.config.embed.encoders[name])
    quality = config.pdq_min_quality if metric == "hamming" else None
    ids, vectors = read_embeddings(
        context.run, name, normalise=metric == "cosine", min_quality=quality
    )
    centres = _centres(context)
    ids, vectors = ids[np.isin(ids, centres)], vectors[np.isin(ids, centres)]
    rows = slice(block * config.rows_per_part, (block + 1) * config.rows_per_part)
    if metric == "hamming":
        pairs = indexes.hamming_join(vectors, ids, config.pdq_max_distance, rows=rows)
    else:
        index = _cells(context, vectors, ids)
        pairs = indexes.self_join(vectors, ids, config.min_similarity[name], rows=rows, index=index)
    if config.max_pixel_l2 is not None:
        pairs = _agreeing(pairs, context, config.max_pixel_l2)
    featureless = 0
    if quality is not None and block == 0:  # counted once, by the first part
        every, _ = read_embeddings(context.run, name, normalise=False)
        featureless = int(np.isin(every, centres).sum()) - len(ids)
    reasons = ["pdq" if metric == "hamming" else "descriptor"] * len(pairs)
    return _Join(_table(pairs, reasons), len(ids[rows]), featureless)


def _agreeing(pairs: Pairs, context: Context, max_l2: float) -> Pairs:
    """The pairs whose pictures are also near pixel by pixel, at the size of `pixels`."""
    ids, vectors = read_embeddings(context.run, PIXELS, normalise=False)
    rows_a, rows_b = np.searchsorted(ids, pairs.id_a), np.searchsorted(ids, pairs.id_b)
    near = indexes.euclidean(vectors[rows_a], vectors[rows_b]) <= max_l2
    return Pairs(pairs.id_a[near], pairs.id_b[near], pairs.similarity[near])


def _centres(context: Context) -> npt.NDArray[np.int64]:
    images = read_images(context.run, columns=["image_id", "pixel_sha256"])
    ids = images["image_id"].to_numpy()
    return ids[indexes.exact_classes(exact_keys(images), ids) == ids]


def _cells(
    context: Context, vectors: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]
) -> indexes.NearestIndex | None:
    """An inverted-file index of the centres where there are many; None compares all pairs."""
    if indexes.default_factory(len(ids), "cosine") == "Flat":
        return None
    return indexes.build(
        vectors,
        ids,
        metric="cosine",
        seed=context.config.seed,
        threads=context.config.runner.threads_per_part,
    )


def _table(pairs: Pairs, reasons: list[str]) -> pa.Table:
    columns = {
        "id_a": pairs.id_a,
        "id_b": pairs.id_b,
        "similarity": pairs.similarity,
        "reason": reasons,
    }
    return table_from_columns(columns, schemas.PAIRS)


STAGE = Stage("pairs", 1, ("embed", "pairs"), plan, run)
