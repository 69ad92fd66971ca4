"""verdict: what each generation and each caption reproduces.

The rules are in pipeline/detection; here tables become evidence and verdicts become tables. A part
judges the captions of one block of generations; nothing is thresholded anywhere else.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import Verdict as VerdictConfig
from pipeline.detection.caption_verdict import CaptionVerdict, judge_caption
from pipeline.detection.tiled_l2 import pairwise_tiled_l2
from pipeline.detection.unconditional import judge_unconditional
from pipeline.detection.verdict import (
    DISTANCES,
    GenerationEvidence,
    GenerationVerdict,
    Match,
    Thresholds,
)
from pipeline.io import schemas
from pipeline.io.images import decode, to_square
from pipeline.io.runfolder import PROMPTS
from pipeline.io.shards import iterate_samples, picture_bytes
from pipeline.io.tables import read_rows, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.scan import image_limits

Row = dict[str, Any]
UNCALIBRATED = "default thresholds, uncalibrated"


def plan(context: Context) -> list[Part]:
    """One part a block of generations."""
    parts = []
    for path in sorted(context.run.glob("generations/*.parquet")):
        files = [f"generations/{path.stem}.tar", f"generations/{path.stem}.parquet", PROMPTS]
        matches = f"matches/part-{path.stem}.parquet"
        files += [matches] if context.path(matches).is_file() else []
        parts.append(Part(path.stem, tuple(files)))
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Judge one block."""
    generations = read_rows(context.path(part.inputs[1]), schemas.GENERATIONS)
    searched = len(part.inputs) > 3
    matches = read_rows(context.path(part.inputs[3]), schemas.MATCHES) if searched else []
    pictures = _pictures(part, context, [row["key"] for row in generations])
    by_generation = _group(matches, "generation_id")
    prompts = _first_by_id(read_rows(context.findings / PROMPTS, schemas.PROMPTS))
    limits = thresholds(context.config.verdict)
    verdicts: list[Row] = []
    findings: list[Row] = []
    for prompt_id, rows in _group(generations, "prompt_id").items():
        evidence = [
            gather(row, by_generation.get(row["generation_id"], []), searched=searched)
            for row in rows
        ]
        if prompt_id is None:
            verdicts += _without_caption(rows, evidence, by_generation, limits)
            continue
        between = pairwise_tiled_l2(np.stack([pictures[row["key"]] for row in rows]))
        judged = judge_caption(evidence, between, limits)
        found = generation_rows(rows, judged.generations, by_generation)
        verdicts += found
        findings.append(_finding(prompts[prompt_id], judged, found))
    outputs = (f"verdicts/part-{part.name}.parquet", f"findings/part-{part.name}.parquet")
    write_rows(context.path(outputs[0]), verdicts, schemas.VERDICTS)
    write_rows(context.path(outputs[1]), findings, schemas.FINDINGS)
    return Outcome(outputs, len(generations), len(verdicts))


def thresholds(config: VerdictConfig) -> Thresholds:
    """The default thresholds with what the configuration replaces."""
    return Thresholds(**config.model_dump(exclude_none=True))


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


def generation_rows(
    generations: list[Row], judged: Sequence[GenerationVerdict], matches: dict[Any, list[Row]]
) -> list[Row]:
    """Rows of verdicts.parquet: each generation with the match that its verdict rests on.

    Where it rests on none, the distances are those of the nearest match.
    """
    verdict_of = {item.generation_id: item for item in judged}
    rows = []
    for generation in generations:
        item = verdict_of[generation["generation_id"]]
        candidates = matches.get(item.generation_id, [])
        chosen = next((row for row in candidates if row["image_id"] == item.image_id), None)
        shown = chosen or next(iter(candidates), None) or {}
        rows.append(
            {
                "generation_id": item.generation_id,
                "prompt_id": generation["prompt_id"],
                "seed": generation["seed"],
                "image_id": item.image_id,
                "group_id": chosen["group_id"] if chosen else None,
                "verdict": str(item.verdict),
                **{name: shown.get(name) for name in schemas.DISTANCES},
            }
        )
    return rows


def _without_caption(
    rows: list[Row],
    evidence: Sequence[GenerationEvidence],
    matches: dict[Any, list[Row]],
    limits: Thresholds,
) -> list[Row]:
    """Pictures that no caption asked for, each judged by its match nearest by l2."""
    judged = [judge_unconditional(item, limits) for item in evidence]
    by_l2 = {
        generation: sorted(found, key=lambda row: (round(row["l2"], 6), row["image_id"]))
        for generation, found in matches.items()
    }
    return generation_rows(rows, judged, by_l2)


def _finding(prompt: Row, judged: CaptionVerdict, rows: list[Row]) -> Row:
    hits = set(judged.hit_ids)
    return {
        "prompt_id": prompt["prompt_id"],
        "caption": prompt["caption"],
        "group_id": prompt["group_id"],
        "role": prompt["role"],
        "n_duplicates": prompt["n_duplicates"],
        "n_caption_copies": prompt["n_caption_copies"],
        "verdict": str(judged.verdict),
        "calibration": UNCALIBRATED,
        "n_generated": judged.n_generated,
        "n_hits": judged.n_hits,
        "rate": judged.rate,
        "ci_low": judged.ci_low,
        "ci_high": judged.ci_high,
        "seeds_hit": [
            row["seed"] for row in rows if row["generation_id"] in hits and row["seed"] is not None
        ],
        "clique_size": judged.clique_size,
        "clique_capped": judged.clique_capped,
        "image_ids": list(judged.image_ids),
        "n_unet_forwards": 0,
    }


def _pictures(part: Part, context: Context, keys: list[str]) -> dict[str, npt.NDArray[np.uint8]]:
    side, limits = context.config.match.compare_px, image_limits(context)
    samples = iterate_samples(context.path(part.inputs[0]), set(keys))
    return {
        sample["__key__"]: to_square(decode(picture_bytes(sample), limits), side)
        for sample in samples
    }


def _group(rows: Iterable[Row], name: str) -> dict[Any, list[Row]]:
    grouped: dict[Any, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row[name], []).append(row)
    return grouped


def _first_by_id(rows: list[Row]) -> dict[int, Row]:
    first: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: int(row["rank"])):
        first.setdefault(row["prompt_id"], row)
    return first


STAGE = Stage("verdict", 3, ("verdict", "match"), plan, run)
