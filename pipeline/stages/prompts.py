"""prompts: duplicate groups in, the captions to audit out, most duplicated first.

Duplication is what makes a model memorize (Carlini et al. 2023), and one caption for one picture
more than many (Somepalli et al. 2023): groups are ranked by size, then by low caption diversity.
Controls are captions of pictures seen once: they measure false positives, and are chosen by hash,
so that no order of rows decides.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.ids import hash63, prompt_id
from pipeline.io import schemas
from pipeline.io.manifest import read_images
from pipeline.io.prompt_files import is_shards, read_prompts
from pipeline.io.runfolder import (
    ASKED,
    DUPLICATES,
    GROUPS,
    PROMPTS,
    PROMPTS_REJECTED,
    current_groups,
    placeholder_groups,
)
from pipeline.io.shards import find_shards
from pipeline.io.tables import read_rows, read_table, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.asked import asked_groups
from pipeline.stages.collect import collected_captions, list_collected

Row = dict[str, Any]


def plan(context: Context) -> list[Part]:
    """One part: ranks are over all groups."""
    inputs = []
    for name in (DUPLICATES, GROUPS):
        if (context.train / name).is_file():
            inputs.append(relative(context.train / name, context.run))
    if context.config.prompts.file is not None:
        inputs += _files(context.config.prompts.file, context)
    if context.config.generate.folder is not None:
        inputs += list_collected(context)
    elif context.config.prompts.images is not None:
        inputs.append(ASKED)
    limit = context.config.limit
    return [Part("all", tuple(inputs), {} if limit is None else {"limit": limit})]


def run(part: Part, context: Context) -> Outcome:
    """Write prompts.parquet, and the rows of a list that are no captions."""
    config, listed = context.config.prompts, None
    has_train = (context.train / DUPLICATES).is_file()
    captions = _captions_by_group(context) if has_train else {}
    if has_train and not config.placeholders and config.images is None:
        left_out = placeholder_groups(context.train)
        captions = {g: c for g, c in captions.items() if g not in left_out}
    if context.config.generate.folder is not None:
        rows = _from_file(collected_captions(context), captions)
    elif config.file is not None:
        listed = read_prompts(config.file, max_chars=context.config.scan.max_caption_chars)
        rows = _from_file(_sampled(listed.captions, context), captions)
    elif config.images is not None:
        rows = _of_groups(captions, asked_groups(context), context)
    elif config.sample is not None:
        every = {caption for counts in captions.values() for caption in counts if caption}
        rows = _from_file(_sampled(every, context), captions)
    else:
        rows = _from_groups(captions, context)
    rows = _first(rows, part.params.get("limit"))
    for rank, row in enumerate(rows):
        row["rank"] = rank
    write_rows(context.path(PROMPTS), rows, schemas.PROMPTS)
    if listed is None:
        return Outcome((PROMPTS,), len(rows), len(rows))
    rejected = [vars(row) for row in listed.rejected]
    write_rows(context.path(PROMPTS_REJECTED), rejected, schemas.PROMPTS_REJECTED)
    counts = Counter(row.reason for row in listed.rejected)
    outputs = (PROMPTS, PROMPTS_REJECTED)
    return Outcome(outputs, listed.rows, len(listed.captions), dict(sorted(counts.items())))


def distinct_prompts(context: Context) -> list[Row]:
    """Each caption once, in the order of rank: prompt_id and caption."""
    rows = read_rows(
        context.findings / PROMPTS, schemas.PROMPTS, columns=["prompt_id", "caption", "rank"]
    )
    rows.sort(key=lambda row: row["rank"])
    first: dict[int, Row] = {}
    for row in rows:
        first.setdefault(row["prompt_id"], {k: row[k] for k in ("prompt_id", "caption")})
    return list(first.values())


def _captions_by_group(context: Context) -> dict[int, Counter[str]]:
    """For each group, how often each caption occurs; empty captions count for the size alone."""
    table = read_table(
        context.train / DUPLICATES,
        schemas.DUPLICATES,
        columns=["image_id", "group_id", "merged_into"],
    )
    images = read_images(context.train, columns=["image_id", "caption"])
    caption_of = dict(
        zip(images["image_id"].to_pylist(), images["caption"].to_pylist(), strict=True)
    )
    groups: dict[int, Counter[str]] = {}
    for image_id, group_id in zip(
        table["image_id"].to_pylist(), current_groups(table).tolist(), strict=True
    ):
        groups.setdefault(group_id, Counter())[caption_of[image_id]] += 1
    return groups


def _from_groups(groups: dict[int, Counter[str]], context: Context) -> list[Row]:
    config = context.config.prompts
    audited = [
        (group_id, counts)
        for group_id, counts in groups.items()
        if counts.total() >= config.min_copies and set(counts) != {""}
    ]
    audited.sort(key=_copies_first)
    rows = _targets(audited[: config.max_groups], config.max_captions_per_group)
    return rows + _controls(groups, config.controls, context.config.seed)


def _of_groups(groups: dict[int, Counter[str]], asked: set[int], context: Context) -> list[Row]:
    """The captions of groups that were asked about, however small; no control is one of theirs."""
    config = context.config.prompts
    chosen = sorted(((g, groups[g]) for g in asked if g in groups), key=_copies_first)
    others = {group: counts for group, counts in groups.items() if group not in asked}
    rows = _targets(chosen, config.max_captions_per_group)
    taken = {row["caption"] for row in rows}
    controls = _controls(others, config.controls, context.config.seed)
    return rows + [row for row in controls if row["caption"] not in taken]


def _copies_first(item: tuple[int, Counter[str]]) -> tuple[int, int, int]:
    return -item[1].total(), len(item[1]), item[0]


def _targets(groups: Sequence[tuple[int, Counter[str]]], most: int) -> list[Row]:
    """The most frequent captions of each group."""
    rows = []
    for group_id, counts in groups:
        ranked = sorted((c for c in counts if c), key=lambda c: (-counts[c], c))
        rows += [_row(group_id, caption, counts, "target") for caption in ranked[:most]]
    return rows


def _sampled(captions: Collection[str], context: Context) -> list[str]:
    """As many as were wanted, drawn by hash; all in their order where no number was given."""
    wanted, seed = context.config.prompts.sample, context.config.seed
    if wanted is None:
        return list(captions)
    return sorted(captions, key=lambda caption: (hash63("sample", seed, caption), caption))[:wanted]


def _first(rows: list[Row], limit: int | None) -> list[Row]:
    """The rows of the first so many captions."""
    if limit is None:
        return rows
    kept = set(list(dict.fromkeys(row["prompt_id"] for row in rows))[:limit])
    return [row for row in rows if row["prompt_id"] in kept]


def _files(address: Path, context: Context) -> list[str]:
    """The list, or the shards with the tables beside them."""
    if not is_shards(address):
        return [relative(address, context.run)]
    shards = find_shards([str(address)])
    files = [path for shard in shards for path in (shard.path, shard.metadata) if path.is_file()]
    return [relative(path, context.run) for path in files]


def _controls(groups: dict[int, Counter[str]], wanted: int, seed: int) -> list[Row]:
    """Captions of pictures seen once, which no other picture shares."""
    uses = Counter(caption for counts in groups.values() for caption in counts)
    single = [
        (group_id, next(iter(counts)), counts)
        for group_id, counts in groups.items()
        if counts.total() == 1
    ]
    eligible = [item for item in single if item[1] and uses[item[1]] == 1]
    eligible.sort(key=lambda item: hash63("control", seed, item[1]))
    return [
        _row(group_id, caption, counts, "control")
        for group_id, caption, counts in eligible[:wanted]
    ]


def _from_file(captions: Iterable[str], groups: dict[int, Counter[str]]) -> list[Row]:
    """A user's captions, each with the groups that hold it, or with none."""
    holders: dict[str, list[int]] = {}
    for group_id, counts in groups.items():
        for caption in counts:
            holders.setdefault(caption, []).append(group_id)
    rows = []
    for caption in captions:
        found = sorted(holders.get(caption, []))
        rows += [_row(group_id, caption, groups[group_id], "target") for group_id in found]
        rows += [] if found else [_row(None, caption, Counter(), "target")]
    return rows


def _row(group_id: int | None, caption: str, counts: Counter[str], role: str) -> Row:
    return {
        "prompt_id": prompt_id(caption),
        "group_id": group_id,
        "caption": caption,
        "role": role,
        "n_duplicates": counts.total(),
        "n_caption_copies": counts[caption],
        "n_captions": len(counts),
    }


STAGE = Stage("prompts", 3, ("prompts", "scan", "train"), plan, run)
