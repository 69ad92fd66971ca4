"""survivors: components in, for every grouped picture whether it is kept, and what stands for it.

A part takes a range of components, so that many workers can share them and none holds more than
about `groups.rows_per_part` pictures and pairs (or the largest component, where that is more).

Inside a component pictures are kept greedily by quality, so that no two kept ones are
near-duplicates and every dropped one has a kept one at or above the threshold: components alone
would chain, and drop pictures that resemble no survivor. A component in which no picture is near
all others is such a chain; subgroup_id splits it at its weakest links (indexes.splits). Of a hub
(indexes.hubs) one picture is kept, if possible its leader, whose pairs with others are known. What
is said of whole groups is in pipeline/stages/group_facts.py.

Pictures that an evaluation set holds too are dropped first and represent nothing, themselves
included: what resembles only them, and no evaluation picture, may be kept.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

import indexes
from indexes import Clique, Pairs
from pipeline.encoders import metric_of
from pipeline.io import schemas
from pipeline.io.manifest import DIGESTS, exact_keys, read_images
from pipeline.io.runfolder import (
    OLD_DUPLICATES,
    REKEYED,
    hubs_file,
    image_part,
    list_image_parts,
    list_pairs,
)
from pipeline.io.tables import iter_tables, read_table, table_from_columns, write_table
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.against import CONTAMINATED, list_contamination, read_contamination
from pipeline.stages.components import (
    IDS,
    LABELS,
    SIZES,
    open_components,
    pair_batches,
    read_cuts,
)
from pipeline.stages.group_facts import group_facts
from pipeline.stages.quality import list_quality, quality_rank, read_quality

_KEPT, _BYTES, _PIXELS, _BAD, _NEAR = range(5)
_REASONS = ("kept", "bytes", "pixels", CONTAMINATED, "descriptor")
_COLUMNS = (
    "image_id",
    "uid",
    "shard",
    "key",
    "caption",
    "width",
    "height",
    "size",
    *DIGESTS,
)

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def survivors_part(name: str) -> str:
    """The pictures of one range of components."""
    return f"survivors/part-{name}.parquet"


def facts_part(name: str) -> str:
    """The rows of groups.parquet of one range of components."""
    return f"survivors/groups-{name}.parquet"


def plan(context: Context) -> list[Part]:
    """One part a range of components."""
    manifest = [image_part(name) for name in list_image_parts(context.run)]
    inputs = (*manifest, REKEYED, IDS, LABELS, SIZES)
    inputs += (*list_pairs(context.run), *list_contamination(context), *list_quality(context))
    hubs = map(hubs_file, context.config.embed.encoders)
    inputs += tuple(n for n in (*hubs, OLD_DUPLICATES) if context.path(n).is_file())
    return [
        Part(f"{number:05d}", inputs, {"labels": list(labels)})
        for number, labels in enumerate(read_cuts(context.run))
    ]


def run(part: Part, context: Context) -> Outcome:
    """Write the survivors of one range of components, and what is said of each."""
    config = context.config.groups
    members, labels = _members(part, context)
    pairs, reasons = _pairs(part, context)
    bad = read_contamination(context, members)["image_id"].to_numpy()
    hubs = _hubs(members["image_id"].to_numpy(), context)
    values = read_quality(members["image_id"].to_numpy(), context)
    rank = quality_rank(members, config.quality, values, ascending=config.ascending)
    rank = _leaders_first(rank, members, hubs)
    if not config.rechoose:
        rank = _old_first(rank, members["image_id"].to_numpy(), context)
    chosen = choose(members, pairs, reasons, rank, bad, hubs)
    facts = group_facts(members, labels, chosen, pairs, config.placeholder_size)
    outputs = survivors_part(part.name), facts_part(part.name)
    for output, table in zip(outputs, (chosen, facts), strict=True):
        write_table(context.path(output), table)
    return Outcome(outputs, members.num_rows, chosen.num_rows)


def choose(
    members: pa.Table,
    pairs: Pairs,
    pair_reasons: pa.Array,
    rank: npt.NDArray[np.int64],
    contaminated: Ids,
    hubs: Sequence[Clique] = (),
) -> pa.Table:
    """The rows of SURVIVORS: members (rows of the manifest, ids ascending), in their order.

    `pairs` are those among the members, each once, with their reasons; `rank` (n,) is 0 for the
    best. `contaminated` ids, whole classes of exact copies, are dropped before any is chosen; each
    is listed as its own representative. `hubs` are sets of members that are all near each other.
    """
    ids = members["image_id"].to_numpy()
    classes = indexes.exact_classes(exact_keys(members), ids)
    clean = ~np.isin(ids, contaminated)
    joined = np.isin(pairs.id_a, ids[clean]) & np.isin(pairs.id_b, ids[clean])
    among = Pairs(pairs.id_a[joined], pairs.id_b[joined], pairs.similarity[joined])
    kept, representative, similarity = np.zeros(len(ids), bool), ids.copy(), np.ones(len(ids))
    cliques = [_less(hub, ids[clean]) for hub in hubs]
    cover = indexes.greedy_cover(ids[clean], rank[clean], among, classes[clean], cliques)
    kept[clean], representative[clean] = cover.kept, cover.representative
    similarity[clean] = cover.similarity
    stands = np.searchsorted(ids, representative)
    code = np.select(
        [~clean, kept, _same(members["sha256"], stands), _same(members["pixel_sha256"], stands)],
        [_BAD, _KEPT, _BYTES, _PIXELS],
        _NEAR,
    )
    reasons = pa.array(_REASONS).take(pa.array(code))
    near = np.flatnonzero(code == _NEAR)
    found = _reason_of(classes, ids, near, stands[near], pairs, pair_reasons)
    columns = {
        "image_id": ids,
        "keep": kept,
        "reason": pc.replace_with_mask(reasons, pa.array(code == _NEAR), found),
        "representative_id": representative,
        "similarity_to_representative": similarity,
        "subgroup_id": indexes.split_chains(ids, pairs, classes),
    }
    return table_from_columns(columns, schemas.SURVIVORS)


def strongest(pairs: pa.Table) -> tuple[Pairs, pa.Array]:
    """One row a pair, with its reason: of those that several encoders found, the most similar."""
    names = pc.dictionary_encode(pairs["reason"].combine_chunks())
    order = np.argsort(names.dictionary.to_numpy(zero_copy_only=False))
    reason = np.argsort(order)[names.indices.to_numpy()]  # as the names are sorted
    id_a, id_b = pairs["id_a"].to_numpy(), pairs["id_b"].to_numpy()
    similarity = pairs["similarity"].to_numpy()
    order = np.lexsort((reason, -similarity, id_b, id_a))
    id_a, id_b = id_a[order], id_b[order]
    first = np.ones(len(id_a), bool)
    first[1:] = (id_a[1:] != id_a[:-1]) | (id_b[1:] != id_b[:-1])
    rows = order[first]
    reasons = pairs["reason"].combine_chunks().take(pa.array(rows))
    return Pairs(id_a[first], id_b[first], similarity[rows]), reasons


def _members(part: Part, context: Context) -> tuple[pa.Table, Ids]:
    """The manifest's rows of the part's components, ids ascending, and their labels."""
    components, tables = open_components(context.run), []
    first, last = part.params["labels"]
    for name in list_image_parts(context.run):
        table = read_images(context.run, [name], columns=_COLUMNS)
        rows = components.rows_of(table["image_id"].to_numpy())
        labels = components.labels[rows]
        mine = (components.sizes[rows] > 1) & (labels >= first) & (labels <= last)
        tables.append(table.filter(pa.array(mine)))
    members = pa.concat_tables(tables).sort_by("image_id")
    return members, components.labels[components.rows_of(members["image_id"].to_numpy())]


def _pairs(part: Part, context: Context) -> tuple[Pairs, pa.Array]:
    components, tables = open_components(context.run), [schemas.PAIRS.empty_table()]
    first, last = part.params["labels"]
    for table in pair_batches(context.run):
        labels = components.labels[components.rows_of(table["id_a"].to_numpy())]
        tables.append(table.filter(pa.array((labels >= first) & (labels <= last))))
    return strongest(pa.concat_tables(tables))


def _hubs(ids: Ids, context: Context) -> list[Clique]:
    """The hubs of all encoders, with those of their members that are among `ids`."""
    hubs: list[Clique] = []
    for name, spec in context.config.embed.encoders.items():
        path = context.path(hubs_file(name))
        if path.is_file():
            table = read_table(path, schemas.HUBS).sort_by("leader_id")
            metric = metric_of(spec)
            leaders, member = table["leader_id"].to_numpy(), table["image_id"].to_numpy()
            ends = np.append(np.unique(leaders, return_index=True)[1], len(leaders))
            for first, end in pairwise(ends.tolist()):
                if np.isin(leaders[first], ids):  # a hub is inside one component
                    similarity = table["similarity"].to_numpy()[first:end]
                    hubs.append(Clique(member[first:end], similarity, metric))
    return hubs


def _less(clique: Clique, ids: Ids) -> Clique:
    inside = np.isin(clique.members, ids)
    return Clique(clique.members[inside], clique.similarity[inside], clique.metric)


def _leaders_first(rank: Ids, members: pa.Table, hubs: Sequence[Clique]) -> Ids:
    """The rank with leaders of hubs, and their exact copies, before all others.

    Of a hub only the leader's pairs with pictures outside are known.
    """
    if not hubs:
        return rank
    ids = members["image_id"].to_numpy()
    leaders = [hub.members[int(hub.similarity.argmax())] for hub in hubs]
    classes = indexes.exact_classes(exact_keys(members), ids)
    leading = np.isin(classes, classes[np.isin(ids, leaders)])
    return np.where(leading, rank - len(rank), rank)


def _old_first(rank: Ids, ids: Ids, context: Context) -> Ids:
    """The rank with what an earlier run kept before all others: it stays."""
    path = context.path(OLD_DUPLICATES)
    if not path.is_file():
        return rank
    columns, kept = ["image_id", "keep"], np.zeros(len(ids), bool)
    for table in iter_tables(path, schemas.DUPLICATES, columns=columns):
        kept |= np.isin(ids, table.filter(table["keep"])["image_id"].to_numpy())
    return np.where(kept, rank - 2 * len(rank), rank)


def _same(column: pa.ChunkedArray, stands: Ids) -> Mask:
    """Which rows have the same digest as the row that stands for them."""
    values = column.combine_chunks()
    same = pc.fill_null(pc.equal(values, values.take(pa.array(stands))), False)
    return np.asarray(same.to_numpy(zero_copy_only=False))


def _reason_of(
    classes: Ids, ids: Ids, near: Ids, stands: Ids, pairs: Pairs, reasons: pa.Array
) -> pa.Array:
    """How the rows `near` were found to be near the rows `stands`: they, or copies of theirs."""
    _, number = np.unique(classes, return_inverse=True)

    def key(rows_a: Ids, rows_b: Ids) -> Ids:
        one, other = number[rows_a], number[rows_b]
        return np.asarray(np.minimum(one, other) * len(ids) + np.maximum(one, other), np.int64)

    known = key(np.searchsorted(ids, pairs.id_a), np.searchsorted(ids, pairs.id_b))
    order = np.lexsort((-pairs.similarity, known))
    wanted = key(near, stands)
    if not len(known):
        return pa.array([_REASONS[_NEAR]] * len(near), pa.string())
    place = np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)
    there = known[order[place]] == wanted
    return pc.if_else(pa.array(there), reasons.take(pa.array(order[place])), _REASONS[_NEAR])


STAGE = Stage("survivors", 1, ("groups",), plan, run)
