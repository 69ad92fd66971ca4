"""Blocks of captions with all that was drawn for them so far, and the verdicts on these."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.batches import batched
from pipeline.calibration.audit_record import verdict_thresholds
from pipeline.detection.caption_verdict import CaptionVerdict, judge_caption
from pipeline.detection.tiled_l2 import pairwise_tiled_l2
from pipeline.detection.verdict import DISTANCES, GenerationEvidence, Match, Thresholds
from pipeline.io import schemas
from pipeline.io.images import decode, to_square
from pipeline.io.runfolder import part_name
from pipeline.io.shards import iterate_samples, picture_bytes
from pipeline.io.tables import read_rows, read_table
from pipeline.runner.part import Context, Part
from pipeline.stages.beliefs import calibration_of, with_calibration
from pipeline.stages.scan import image_limits

Row = dict[str, Any]

_CAPTIONS_PER_PART = 64


@dataclass(frozen=True)
class Judged:
    """A caption's verdict, its generations, and their matches by generation id."""

    prompt_id: int
    verdict: CaptionVerdict
    generations: list[Row]
    matches: dict[Any, list[Row]]


def judging_parts(
    context: Context, prompts: Sequence[int], *, prefix: str = "", inputs: Sequence[str] = ()
) -> list[Part]:
    """One part a block of captions, with the files that hold what was drawn for them."""
    files = _files_by_prompt(context)
    parts = []
    for number, block in enumerate(batched(prompts, _CAPTIONS_PER_PART)):
        stems = sorted({stem for prompt in block for stem in files.get(prompt, ())})
        needed = [name for stem in stems for name in _names(context, stem)]
        params = {"prompts": list(block), "drawn": stems}
        parts.append(Part(prefix + part_name(number), (*inputs, *needed), params))
    return with_calibration(parts, context)


def judge(part: Part, context: Context) -> Iterator[Judged]:
    """The captions of a part, in its order; one without generations is judged on nothing."""
    wanted = set(part.params["prompts"])
    generations: dict[Any, list[Row]] = {prompt: [] for prompt in part.params["prompts"]}
    matches: dict[Any, list[Row]] = {}
    pictures: dict[str, npt.NDArray[np.uint8]] = {}
    searched = False
    for stem in part.params["drawn"]:
        tar, table, *found = _names(context, stem)
        rows = [
            row
            for row in read_rows(context.path(table), schemas.GENERATIONS)
            if row["prompt_id"] in wanted
        ]
        for row in rows:
            generations[row["prompt_id"]].append(row)
        pictures |= _pictures(context, tar, {row["key"] for row in rows})
        searched |= bool(found)
        for name in found:
            matches |= grouped(read_rows(context.path(name), schemas.MATCHES), "generation_id")
    limits = limits_of(context)
    for prompt, rows in generations.items():
        own = {row["generation_id"]: matches.get(row["generation_id"], []) for row in rows}
        evidence = [gather(row, own[row["generation_id"]], searched=searched) for row in rows]
        between = np.zeros((0, 0))
        if rows:
            between = pairwise_tiled_l2(np.stack([pictures[row["key"]] for row in rows]))
        yield Judged(prompt, judge_caption(evidence, between, limits), rows, own)


def uncaptioned_parts(context: Context, *, prefix: str) -> list[Part]:
    """One part a file of generations that holds pictures without a caption."""
    stems = _files_by_prompt(context).get(None, [])
    parts = [
        Part(prefix + stem, tuple(_names(context, stem)), {"prompts": [], "drawn": [stem]})
        for stem in stems
    ]
    return with_calibration(parts, context)


def uncaptioned(
    part: Part, context: Context
) -> tuple[list[Row], dict[Any, list[Row]], list[GenerationEvidence]]:
    """The pictures of a part without a caption, their matches by id, and the evidence on each."""
    _, table, *found = _names(context, part.params["drawn"][0])
    rows = read_rows(context.path(table), schemas.GENERATIONS)
    rows = [row for row in rows if row["prompt_id"] is None]
    matches: dict[Any, list[Row]] = {}
    for name in found:
        matches |= grouped(read_rows(context.path(name), schemas.MATCHES), "generation_id")
    searched = bool(found)
    evidence = [
        gather(row, matches.get(row["generation_id"], []), searched=searched) for row in rows
    ]
    return rows, matches, evidence


def limits_of(context: Context) -> Thresholds:
    """The thresholds of a run. Raises ConfigError for a calibration of other models."""
    return verdict_thresholds(context.config.verdict, calibration_of(context))


def gather(generation: Row, matches: Iterable[Row], *, searched: bool) -> GenerationEvidence:
    """The evidence on one generation from its rows of matches.parquet."""
    found = tuple(
        Match(
            image_id=row["image_id"],
            group_id=row["group_id"],
            similarity=row["similarity"],
            blank=row["blank"],
            **{name: row[name] for name in DISTANCES},
        )
        for row in matches
    )
    blank = generation["status"] != "ok"
    return GenerationEvidence(generation["generation_id"], found, blank, searched)


def grouped(rows: Iterable[Row], name: str) -> dict[Any, list[Row]]:
    """Rows by the value of a column, in their order."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups


def _files_by_prompt(context: Context) -> dict[int | None, list[str]]:
    """The parts that drew a caption; under None those with pictures that have none."""
    files: dict[int | None, list[str]] = {}
    for path in sorted(context.run.glob("generations/*.parquet")):
        column = read_table(path, schemas.GENERATIONS, columns=["prompt_id"])["prompt_id"]
        for prompt in column.unique().to_pylist():
            files.setdefault(prompt, []).append(path.stem)
    return files


def _names(context: Context, stem: str) -> list[str]:
    """The tar, the table and, where there was a search, the matches."""
    matches = f"matches/part-{stem}.parquet"
    found = [matches] if context.path(matches).is_file() else []
    return [f"generations/{stem}.tar", f"generations/{stem}.parquet", *found]


def _pictures(context: Context, tar: str, keys: set[str]) -> dict[str, npt.NDArray[np.uint8]]:
    side, limits = context.config.match.compare_px, image_limits(context)
    samples = iterate_samples(context.path(tar), keys)
    return {
        sample["__key__"]: to_square(decode(picture_bytes(sample), limits), side)
        for sample in samples
    }
