"""groups: pairs in, one row a picture out: its group, and whether it is kept.

A group is a connected component of the pairs. Inside it pictures are kept greedily by quality, so
that no two kept ones are near-duplicates and every dropped one has a kept one at or above the
threshold: components alone would chain, and drop pictures that resemble no survivor. A component
with several kept pictures is such a chain; representative_id splits it. groups.parquet says how
long chains are, where they are weakest, and which group is a placeholder ("no image").

Pictures that an evaluation set holds too are dropped first and represent nothing, themselves
included: what resembles only them, and no evaluation picture, may be kept.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import indexes
from indexes import Pairs
from pipeline.io import schemas
from pipeline.io.runfolder import (
    DUPLICATES,
    GROUPS,
    REKEYED,
    exact_keys,
    image_part,
    list_image_parts,
    list_pairs,
    read_images,
)
from pipeline.io.tables import read_parts, table_from_columns, write_rows, write_table
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.against import CONTAMINATED, list_contamination, read_contamination

_EXACT_REASONS = ("bytes", "pixels")
Row = dict[str, Any]


def plan(context: Context) -> list[Part]:
    """One part: a component may span all shards."""
    manifest = [image_part(name) for name in list_image_parts(context.run)]
    inputs = (*manifest, REKEYED, *list_pairs(context.run), *list_contamination(context))
    return [Part("all", inputs)]


def run(part: Part, context: Context) -> Outcome:
    """Write duplicates.parquet."""
    del part
    images = read_images(context.run)
    pairs = read_parts((context.run / path for path in list_pairs(context.run)), schemas.PAIRS)
    config = context.config.groups
    bad = read_contamination(context, images)["image_id"].to_numpy()
    table = group(images, pairs, config.quality, contaminated=bad)
    write_table(context.path(DUPLICATES), table)
    facts = group_facts(images, table, pairs, config.placeholder_size)
    write_rows(context.path(GROUPS), facts, schemas.GROUPS)
    return Outcome((DUPLICATES, GROUPS), images.num_rows, table.num_rows)


def group(
    images: pa.Table,
    pairs: pa.Table,
    quality: str,
    *,
    contaminated: npt.NDArray[np.int64] | None = None,
) -> pa.Table:
    """The rows of duplicates.parquet, sorted by image id; independent of the order of rows.

    `contaminated` ids, whole classes of exact copies, are dropped before any is chosen; each is
    listed as its own representative.
    """
    images = images.sort_by("image_id")
    ids = images["image_id"].to_numpy()
    id_a, id_b = pairs["id_a"].to_numpy(), pairs["id_b"].to_numpy()
    groups = indexes.connected_components(ids, id_a, id_b)
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    clean = ~np.isin(ids, np.zeros(0, np.int64) if contaminated is None else contaminated)
    cover = _cover(images, pairs, quality_rank(images, quality), clean)
    sizes_of = sizes[place]
    columns = {
        "image_id": ids,
        "uid": images["uid"],
        "url": images["url"],
        "group_id": groups,
        "group_size": sizes_of.astype(np.int32),
        "keep": cover.kept,
        "reason": _reasons(images, pairs, sizes_of, cover, clean),
        "representative_id": cover.representative,
        "similarity_to_representative": cover.similarity,
        "merged_into": pa.nulls(len(ids), pa.int64()),
    }
    return table_from_columns(columns, schemas.DUPLICATES)


def group_facts(
    images: pa.Table, duplicates: pa.Table, pairs: pa.Table, placeholder_size: int
) -> list[Row]:
    """The rows of groups.parquet: every group of two or more, by id.

    The diameter counts links; it is 1 where one kept picture stands for all others.
    """
    images, strongest = images.sort_by("image_id"), _strongest(pairs)
    groups = duplicates["group_id"].to_numpy()
    weakest = indexes.weakest_links(images["image_id"].to_numpy(), strongest)
    order = np.argsort(groups, kind="stable")
    captions = images["caption"].take(order).to_pylist()
    kept = duplicates["keep"].to_numpy(zero_copy_only=False)[order]
    labels, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    links = _LinksByGroup(duplicates, strongest)
    rows: list[Row] = []
    for label, start, size in zip(labels.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        if size < 2:
            continue
        members = slice(start, start + size)
        n_kept, n_captions = int(kept[members].sum()), len(set(captions[members]))
        rows.append(
            {
                "group_id": label,
                "group_size": size,
                "n_kept": n_kept,
                "n_captions": n_captions,
                "weakest_link": float(weakest[order[start]]),
                "diameter": indexes.diameter(links.of(label)) if n_kept > 1 else 1,
                "placeholder": size >= placeholder_size and 2 * n_captions >= size,
            }
        )
    return rows


class _LinksByGroup:
    def __init__(self, duplicates: pa.Table, pairs: Pairs) -> None:
        place = np.searchsorted(duplicates["image_id"].to_numpy(), pairs.id_a)
        groups = duplicates["group_id"].to_numpy()[place]
        self._order = np.argsort(groups, kind="stable")
        self._groups, self._pairs = groups[self._order], pairs

    def of(self, group: int) -> Pairs:
        first, end = np.searchsorted(self._groups, [group, group + 1])
        rows = self._order[first:end]
        return Pairs(self._pairs.id_a[rows], self._pairs.id_b[rows], self._pairs.similarity[rows])


def quality_rank(images: pa.Table, quality: str) -> npt.NDArray[np.int64]:
    """Rank (n,), 0 best: by quality, then sha256, then uid, so that row order never decides.

    A size that is not known counts as the smallest.
    """
    measure = {
        "resolution": lambda row: -(row["width"] or 0) * (row["height"] or 0),
        "bytes": lambda row: -(row["size"] or 0),
        "first": lambda row: (row["shard"], row["key"]),
    }[quality]
    names = ["width", "height", "size", "shard", "key", "sha256", "uid", "image_id"]
    rows = images.select(names).to_pylist()

    def key(place: int) -> tuple[Any, ...]:
        row = rows[place]
        return measure(row), row["sha256"] or "", row["uid"] or "", row["image_id"]

    rank = np.empty(len(rows), np.int64)
    rank[sorted(range(len(rows)), key=key)] = np.arange(len(rows))
    return rank


def _cover(
    images: pa.Table, pairs: pa.Table, rank: npt.NDArray[np.int64], clean: npt.NDArray[np.bool_]
) -> indexes.Cover:
    """What represents each row, chosen among the clean ones; of the others, each itself."""
    ids = images["image_id"].to_numpy()
    joined = np.isin(pairs["id_a"], ids[clean]) & np.isin(pairs["id_b"], ids[clean])
    chosen = indexes.greedy_cover(
        ids[clean],
        rank[clean],
        _strongest(pairs.filter(joined)),
        class_of=indexes.exact_classes(exact_keys(images), ids)[clean],
    )
    cover = indexes.Cover(np.zeros(len(ids), bool), ids.copy(), np.ones(len(ids)))
    cover.kept[clean] = chosen.kept
    cover.representative[clean] = chosen.representative
    cover.similarity[clean] = chosen.similarity
    return cover


def _strongest(pairs: pa.Table) -> Pairs:
    """One row a pair: of those that several encoders found, the most similar."""
    order = np.lexsort(
        (-pairs["similarity"].to_numpy(), pairs["id_b"].to_numpy(), pairs["id_a"].to_numpy())
    )
    ranked = pairs.take(order)
    id_a, id_b = ranked["id_a"].to_numpy(), ranked["id_b"].to_numpy()
    first = np.ones(len(id_a), bool)
    first[1:] = (id_a[1:] != id_a[:-1]) | (id_b[1:] != id_b[:-1])
    return Pairs(id_a[first], id_b[first], ranked["similarity"].to_numpy()[first])


def _reasons(
    images: pa.Table,
    pairs: pa.Table,
    sizes: npt.NDArray[np.int64],
    cover: indexes.Cover,
    clean: npt.NDArray[np.bool_],
) -> list[str]:
    """Why a row is kept or dropped: `unique`, `kept`, how it matches its representative, or
    `contaminated`."""
    found = {
        (row["id_a"], row["id_b"]): row["reason"]
        for row in sorted(pairs.to_pylist(), key=lambda row: row["similarity"])
    }
    keys = exact_keys(images)
    ids = images["image_id"].to_pylist()
    key_of = dict(zip(ids, keys, strict=True))
    digest_of = dict(zip(ids, images["sha256"].to_pylist(), strict=True))
    reasons = []
    for place, image_id in enumerate(ids):
        representative = int(cover.representative[place])
        if not clean[place]:
            reasons.append(CONTAMINATED)
        elif cover.kept[place]:
            reasons.append("unique" if sizes[place] == 1 else "kept")
        elif key_of[image_id] == key_of[representative]:
            same_bytes = digest_of[image_id] == digest_of[representative]
            reasons.append(_EXACT_REASONS[0] if same_bytes else _EXACT_REASONS[1])
        else:
            edge = (min(image_id, representative), max(image_id, representative))
            reasons.append(found.get(edge, "descriptor"))
    return reasons


STAGE = Stage("groups", 2, ("groups",), plan, run)
