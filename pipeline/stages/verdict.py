"""verdict: what each generation and each caption reproduces.

The rules are in pipeline/detection; here verdicts become tables. A part judges a block of captions
by all that was drawn for them, or pictures without a caption; nothing is thresholded anywhere else.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.detection.caption_verdict import CaptionVerdict
from pipeline.detection.unconditional import judge_unconditional
from pipeline.detection.verdict import GenerationEvidence, GenerationVerdict, Thresholds
from pipeline.io import schemas
from pipeline.io.runfolder import PROMPTS
from pipeline.io.tables import read_rows, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.judging import (
    judge,
    judging_parts,
    limits_of,
    uncaptioned,
    uncaptioned_parts,
)
from pipeline.stages.models import unconditional
from pipeline.stages.prompts import distinct_prompts

Row = dict[str, Any]
UNCALIBRATED = "default thresholds, uncalibrated"


def plan(context: Context) -> list[Part]:
    """One part a block of captions, and one a block of pictures without."""
    without = context.config.generate.folder is None and unconditional(context)
    prompts = [] if without else [row["prompt_id"] for row in distinct_prompts(context)]
    captioned = judging_parts(context, prompts, inputs=(PROMPTS,))
    return [*captioned, *uncaptioned_parts(context, prefix="alone-")]


def run(part: Part, context: Context) -> Outcome:
    """Judge one block."""
    verdicts: list[Row] = []
    findings: list[Row] = []
    if part.params["prompts"]:
        prompts = _first_by_id(read_rows(context.findings / PROMPTS, schemas.PROMPTS))
        for item in judge(part, context):
            rows = generation_rows(item.generations, item.verdict.generations, item.matches)
            verdicts += rows
            findings.append(_finding(prompts[item.prompt_id], item.verdict, rows))
    else:
        rows, matches, evidence = uncaptioned(part, context)
        verdicts = _without_caption(rows, evidence, matches, limits_of(context))
    outputs = (f"verdicts/part-{part.name}.parquet", f"findings/part-{part.name}.parquet")
    write_rows(context.path(outputs[0]), verdicts, schemas.VERDICTS)
    write_rows(context.path(outputs[1]), findings, schemas.FINDINGS)
    return Outcome(outputs, len(verdicts), len(verdicts))


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


def _first_by_id(rows: list[Row]) -> dict[int, Row]:
    first: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: int(row["rank"])):
        first.setdefault(row["prompt_id"], row)
    return first


STAGE = Stage("verdict", 3, ("verdict", "match", "model"), plan, run)
