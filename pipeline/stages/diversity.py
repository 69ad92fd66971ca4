"""diversity: groups in; how different the captions of each are, and those of the dropped, out.

A picture that was seen with several captions is memorized less than one that was always seen with
the same (Somepalli et al. 2023, "Understanding and Mitigating Copying in Diffusion Models"). So
caption_groups.parquet says for each group of two or more how many distinct captions it has, and
with an encoder of captions their mean distance from each other: for n of unit vectors u,

    caption_diversity = 2 / (n (n - 1)) sum_{i<j} (1 - <u_i, u_j>)
                      = (n^2 - |sum_i u_i|^2) / (n (n - 1)),    0 where n < 2,

between 0 (the same) and n / (n - 1). export/captions.parquet keeps what deduplication would lose:
for each kept picture that stands for others, all captions that it and they came with, for a trainer
to draw from.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.io import schemas
from pipeline.io.embeddings import load_vectors
from pipeline.io.manifest import read_images
from pipeline.io.runfolder import (
    ALTERNATIVES,
    CAPTION_GROUPS,
    DUPLICATES,
    REKEYED,
    EmbeddingPart,
    image_part,
    list_embedding_parts,
    list_image_parts,
)
from pipeline.io.tables import read_table, table_from_columns, write_table
from pipeline.runner.part import Context, Outcome, Part, Stage

_DECIMALS = 6
_GROUPS_AT_ONCE = 1 << 16

Ids = npt.NDArray[np.int64]


def plan(context: Context) -> list[Part]:
    """One part: a group may span all shards."""
    manifest = [image_part(name) for name in list_image_parts(context.run)]
    texts = [path for file in _text_parts(context) for path in (file.text_vectors, file.metadata)]
    return [Part("all", (*manifest, REKEYED, DUPLICATES, *texts))]


def run(part: Part, context: Context) -> Outcome:
    """Write both tables. Memory: the captions of pictures in groups, and a block of groups."""
    del part
    columns = ["image_id", "group_id", "group_size", "keep", "representative_id"]
    duplicates = read_table(context.path(DUPLICATES), schemas.DUPLICATES, columns=columns)
    rows = duplicates.num_rows
    grouped = duplicates.filter(pc.greater(duplicates["group_size"], 1))
    grouped = grouped.join(_captions(context, grouped["image_id"]), "image_id", join_type="inner")
    groups = caption_groups(grouped, list(_text_vectors(context)))
    write_table(context.path(CAPTION_GROUPS), groups)
    write_table(context.path(ALTERNATIVES), alternatives(grouped))
    return Outcome((CAPTION_GROUPS, ALTERNATIVES), rows, rows)


def caption_groups(
    grouped: pa.Table, parts: list[tuple[Ids, npt.NDArray[np.float16]]] | None = None
) -> pa.Table:
    """The rows of caption_groups.parquet, by group.

    `grouped`: image_id, group_id, group_size and caption. `parts` are ids and vectors of captions;
    without them, and where one of a group's captions has no vector, the diversity is null.
    """
    sizes = grouped.group_by("group_id").aggregate([("group_size", "max")]).sort_by("group_id")
    ids = sizes["group_id"].to_numpy()
    distinct = _distinct(grouped, "group_id")
    group = np.searchsorted(ids, distinct["group_id"].to_numpy())
    counts = np.bincount(group, minlength=len(ids)).astype(np.int64)
    diversity: list[float | None] = [None] * len(ids)
    if parts:
        chosen = distinct["image_id"].to_numpy()
        for start in range(0, len(ids), _GROUPS_AT_ONCE):
            block = slice(start, start + _GROUPS_AT_ONCE)
            inside = (group >= start) & (group < start + _GROUPS_AT_ONCE)
            diversity[block] = _diversity(
                chosen[inside], group[inside] - start, counts[block], parts
            )
    columns = {
        "group_id": ids,
        "group_size": sizes["group_size_max"],
        "n_captions": counts.astype(np.int32),
        "caption_diversity": diversity,
    }
    return table_from_columns(columns, schemas.CAPTION_GROUPS)


def alternatives(grouped: pa.Table) -> pa.Table:
    """The rows of export/captions.parquet: the kept picture, a caption, and how many came with it.

    `grouped`: image_id, keep, representative_id and caption. source_image_id is the smallest of
    the pictures with that caption. What a kept picture stands for includes itself.
    """
    kept = grouped.filter(grouped["keep"])["image_id"]
    covered = grouped.filter(pc.is_in(grouped["representative_id"], kept.combine_chunks()))
    own = covered.group_by("representative_id").aggregate([("image_id", "count")])
    several = own.filter(pc.greater(own["image_id_count"], 1))["representative_id"]
    covered = covered.filter(pc.is_in(covered["representative_id"], several.combine_chunks()))
    distinct = _distinct(covered, "representative_id")
    columns = {
        "image_id": distinct["representative_id"],
        "caption": distinct["caption"],
        "source_image_id": distinct["image_id"],
        "n": pc.cast(distinct["n"], pa.int32()),
    }
    return table_from_columns(columns, schemas.ALTERNATIVES)


def _distinct(rows: pa.Table, by: str) -> pa.Table:
    """Each caption that is not empty once, with its smallest image_id and count `n`, sorted."""
    told = rows.filter(pc.not_equal(rows["caption"], ""))
    found = told.group_by([by, "caption"]).aggregate([("image_id", "min"), ("image_id", "count")])
    found = found.rename_columns([by, "caption", "image_id", "n"])
    return found.sort_by([(by, "ascending"), ("caption", "ascending")])


def _diversity(
    chosen: Ids, group: Ids, counts: Ids, parts: list[tuple[Ids, npt.NDArray[np.float16]]]
) -> list[float | None]:
    """The diversity of groups 0 to len(counts) - 1 from the vectors of the `chosen` ids."""
    order = np.argsort(chosen)
    chosen, group = chosen[order], group[order]
    width = max((vectors.shape[1] for _, vectors in parts), default=1)
    sums, seen = np.zeros((len(counts), width)), np.zeros(len(counts), np.int64)
    for ids, vectors in parts:
        place = np.searchsorted(chosen, ids)
        found = np.flatnonzero(np.append(chosen, -1)[place] == ids)
        block = np.asarray(vectors[found], np.float64)
        norms = np.sqrt(np.square(block).sum(axis=1))
        sound = norms > 0
        owners = group[place[found[sound]]]
        if len(owners):
            np.add.at(sums, owners, block[sound] / norms[sound, None])
            np.add.at(seen, owners, 1)
    n = counts.astype(np.float64)
    apart = (n**2 - np.square(sums).sum(axis=1)) / np.maximum(n * (n - 1), 1)
    values = np.where(counts > 1, np.maximum(np.round(apart, _DECIMALS), 0.0), 0.0)
    return [
        float(value) if every else None for value, every in zip(values, seen == counts, strict=True)
    ]


def _captions(context: Context, ids: pa.ChunkedArray) -> pa.Table:
    wanted = ids.combine_chunks()
    tables = [
        table.filter(pc.is_in(table["image_id"], wanted))
        for name in list_image_parts(context.run)
        for table in [read_images(context.run, [name], columns=["image_id", "caption"])]
    ]
    return pa.concat_tables(tables)


def _text_parts(context: Context) -> list[EmbeddingPart]:
    name = context.config.captions.encoder
    files = list_embedding_parts(context.run, name) if name else []
    return [file for file in files if context.path(file.text_vectors).is_file()]


def _text_vectors(context: Context) -> Iterator[tuple[Ids, npt.NDArray[np.float16]]]:
    for file in _text_parts(context):
        columns = ["image_id"]
        path = context.path(file.metadata)
        ids = read_table(path, schemas.EMBEDDING_METADATA, columns=columns)["image_id"].to_numpy()
        yield ids, load_vectors(context.path(file.text_vectors), len(ids), mapped=True)


STAGE = Stage("diversity", 1, ("captions",), plan, run)
