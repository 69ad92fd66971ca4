"""score: the only stage that compares what was found with what was planted.

A caption's truth is the share of its drawings that reproduce a training picture, its own or that of
another caption: both are memorization, and the verdict compares with all pictures. The curve by
copies counts the caption's own picture alone.
"""

import json
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.detection.intervals import wilson
from pipeline.detection.verdict import HITS
from pipeline.io import schemas
from pipeline.io.atomic import write_bytes
from pipeline.io.manifest import read_images
from pipeline.io.runfolder import DUPLICATES, FINDINGS, PLANTED
from pipeline.io.tables import read_parts, read_rows, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage

POSITIVE, NEGATIVE = 0.5, 0.05
Row = dict[str, Any]


def plan(context: Context) -> list[Part]:
    """One part, or none where nothing was planted."""
    truth = sorted(context.run.glob("truth/part-*.parquet"))
    if not truth:
        return []
    names = [path.relative_to(context.run).as_posix() for path in truth]
    return [Part("all", (*names, PLANTED, FINDINGS, DUPLICATES))]


def run(part: Part, context: Context) -> Outcome:
    """Write scored.parquet, a row a caption, and score.json."""
    del part
    paths = sorted(context.run.glob("truth/part-*.parquet"))
    truth = read_parts(paths, schemas.TRUTH).to_pylist()
    findings = {
        row["prompt_id"]: row for row in read_rows(context.path(FINDINGS), schemas.FINDINGS)
    }
    rows = _scored(truth, findings)
    write_rows(context.path("scored.parquet"), rows, schemas.SCORED)
    score = {"pairs": _pairs(context), "truth": _recall(rows), "curve": _curve(truth)}
    write_bytes(context.path("score.json"), json.dumps(score, indent=1, sort_keys=True).encode())
    return Outcome(("scored.parquet", "score.json"), len(truth), len(truth))


def pair_counts(pictures: npt.NDArray[Any], groups: npt.NDArray[Any]) -> dict[str, int]:
    """Pairs of one picture (planted), of one group (grouped), and of both (found).

    Counted by group sizes: n rows of one label are n (n - 1) / 2 pairs.
    """
    both = Counter(zip(pictures.tolist(), groups.tolist(), strict=True))
    planted = sum(_pairs_of(n) for n in Counter(pictures.tolist()).values())
    grouped = sum(_pairs_of(n) for n in Counter(groups.tolist()).values())
    found = sum(_pairs_of(n) for n in both.values())
    return {
        "planted": planted,
        "found": found,
        "missed": planted - found,
        "false": grouped - found,
    }


def _pairs_of(n: int) -> int:
    return n * (n - 1) // 2


def _pairs(context: Context) -> dict[str, int]:
    picture_of = {
        row["key"]: row["picture_id"] for row in read_rows(context.path(PLANTED), schemas.PLANTED)
    }
    images = read_images(context.run, columns=["image_id", "key"])
    keys = dict(zip(images["image_id"].to_pylist(), images["key"].to_pylist(), strict=True))
    rows = read_rows(context.path(DUPLICATES), schemas.DUPLICATES)
    pictures = np.array([picture_of[keys[row["image_id"]]] for row in rows])
    return pair_counts(pictures, np.array([row["group_id"] for row in rows]))


def _scored(truth: list[Row], findings: dict[int, Row]) -> list[Row]:
    draws: dict[int, list[Row]] = {}
    for row in truth:
        draws.setdefault(row["prompt_id"], []).append(row)
    rows = []
    for prompt, drawn in sorted(draws.items()):
        finding = findings.get(prompt)
        if finding is None:
            continue
        own = sum(row["reproduced"] for row in drawn) / len(drawn)
        other = sum(row["reproduced_picture"] is not None for row in drawn) / len(drawn) - own
        first = drawn[0]
        fields = ("prompt_id", "caption", "picture_id", "planted", "k", "k_caption")
        rows.append(
            {
                **{name: first[name] for name in fields},
                "n_truth": len(drawn),
                "p_truth": own,
                "p_other": other,
                "truth": label(own + other),
                "verdict": finding["verdict"],
                "rate": finding["rate"],
                "noise_gap": finding["noise_gap"],
            }
        )
    return rows


def label(p: float) -> str:
    """A reproduction rate as the truth about a caption."""
    if p >= POSITIVE:
        return "positive"
    return "negative" if p <= NEGATIVE else "partial"


def _recall(rows: list[Row]) -> Row:
    count = Counter(row["truth"] for row in rows)
    found = Counter(row["truth"] for row in rows if row["verdict"] in HITS)
    undecided = Counter(row["truth"] for row in rows if row["verdict"] == "undecided")
    positive, negative = count["positive"], count["negative"]
    return {
        "captions": len(rows),
        "pictures": len({row["picture_id"] for row in rows}),
        "positive": positive,
        "partial": count["partial"],
        "negative": negative,
        "found_positive": found["positive"],
        "found_partial": found["partial"],
        "undecided": dict(undecided),
        "recall": found["positive"] / positive if positive else None,
        "recall_ci": wilson(found["positive"], positive),
        "false_findings": found["negative"],
        "false_ci": wilson(found["negative"], negative),
    }


def _curve(truth: list[Row]) -> list[Row]:
    """The reproduction rate by copies of the picture, over planted pictures and controls."""
    by_k: dict[int, list[Row]] = {}
    for row in truth:
        by_k.setdefault(row["k"], []).append(row)
    points = []
    for k, rows in sorted(by_k.items()):
        hits = sum(row["reproduced"] for row in rows)
        low, high = wilson(hits, len(rows))
        points.append(
            {
                "k": k,
                "pictures": len({row["picture_id"] for row in rows}),
                "captions": len({row["prompt_id"] for row in rows}),
                "n": len(rows),
                "hits": hits,
                "rate": hits / len(rows),
                "ci_low": low,
                "ci_high": high,
            }
        )
    return points


STAGE = Stage("score", 2, ("demo",), plan, run)
