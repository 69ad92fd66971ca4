"""prompts: duplicate groups in, the captions to audit out, most duplicated first.

Duplication is what makes a model memorize (Carlini et al. 2023), and one caption for one picture
more than many (Somepalli et al. 2023): groups are ranked by size, then by low caption diversity.
Controls are captions of pictures seen once: they measure false positives, and are chosen by hash,
so that no order of rows decides.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipeline.generation.seeds import hash63, prompt_id
from pipeline.io import schemas
from pipeline.io.prompt_files import read_prompts
from pipeline.io.runfolder import DUPLICATES, GROUPS, PROMPTS, current_groups, read_images
from pipeline.io.tables import read_rows, read_table, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.collect import collected_captions, list_collected

Row = dict[str, Any]


def plan(context: Context) -> list[Part]:
    """One part: ranks are over all groups."""
    inputs = []
    for name in (DUPLICATES, GROUPS):
        if (context.train / name).is_file():
            inputs.append(relative(context.train / name, context.run))
    if context.config.prompts.file is not None:
        inputs.append(relative(context.config.prompts.file, context.run))
    if context.config.generate.folder is not None:
        inputs += list_collected(context)
    return [Part("all", tuple(inputs))]


def run(part: Part, context: Context) -> Outcome:
    """Write prompts.parquet."""
    del part
    config = context.config.prompts
    has_train = (context.train / DUPLICATES).is_file()
    captions = _captions_by_group(context) if has_train else {}
    if has_train and not config.placeholders:
        left_out = _placeholders(context)
        captions = {g: c for g, c in captions.items() if g not in left_out}
    if context.config.generate.folder is not None:
        rows = _from_file(collected_captions(context), captions)
    elif config.file is not None:
        rows = _from_file(read_prompts(config.file), captions)
    else:
        rows = _from_groups(captions, context)
    for rank, row in enumerate(rows):
        row["rank"] = rank
    write_rows(context.path(PROMPTS), rows, schemas.PROMPTS)
    return Outcome((PROMPTS,), len(rows), len(rows))


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


def _placeholders(context: Context) -> set[int]:
    path = context.train / GROUPS
    if not path.is_file():  # a run of an earlier version
        return set()
    rows = read_rows(path, schemas.GROUPS, columns=["group_id", "placeholder"])
    return {row["group_id"] for row in rows if row["placeholder"]}


def _from_groups(groups: dict[int, Counter[str]], context: Context) -> list[Row]:
    config = context.config.prompts
    audited = [
        (group_id, counts)
        for group_id, counts in groups.items()
        if counts.total() >= config.min_copies and set(counts) != {""}
    ]
    audited.sort(key=lambda item: (-item[1].total(), len(item[1]), item[0]))
    rows = []
    for group_id, counts in audited[: config.max_groups]:
        ranked = sorted((c for c in counts if c), key=lambda c: (-counts[c], c))
        rows += [
            _row(group_id, caption, counts, "target")
            for caption in ranked[: config.max_captions_per_group]
        ]
    return rows + _controls(groups, config.controls, context.config.seed)


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


STAGE = Stage("prompts", 2, ("prompts", "train"), plan, run)
