"""verify: drawings before and after in, and what attacks brought back; one verdict a method out.

    failed      the erased captions still draw their pictures, or now draw other training pictures
    suppressed  they do not, and attacks bring the pictures back, or say nothing
    erased      they do not, and attacks fare as they do where there is nothing to bring back
    undecided   too few drawings, or attempts, to tell

A mitigation, drawn from the base model's weights, is "suppressed" at best: nothing has left them.

The rules for attacks are in pipeline/erasure/conclusion.py. Captions that were held out count where
they drew the picture before. Beside the verdict a model may be `damaged`: `damage` says how, by the
rules in pipeline/erasure/damage.py, and `collateral` has what they rest on. `kept_fall` is by how
much the rate of other memorized pictures fell (Newcombe's 95 % interval).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.detection.caption_verdict import is_most
from pipeline.detection.intervals import difference, wilson
from pipeline.detection.l2 import l2
from pipeline.detection.verdict import HITS, Thresholds
from pipeline.erasure.conclusion import UNCHANGED, Evidence, conclude
from pipeline.erasure.damage import NOT_MEASURED, Collateral, Limits, damages
from pipeline.io import schemas
from pipeline.io.atomic import write_bytes
from pipeline.io.digest import sha256_once
from pipeline.io.images import decode, to_square
from pipeline.io.runfolder import VERIFICATION
from pipeline.io.shards import iterate_samples
from pipeline.io.tables import read_parts, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.attacked import Attacked
from pipeline.stages.beliefs import with_calibration
from pipeline.stages.judging import limits_of
from pipeline.stages.models import model_fingerprint
from pipeline.stages.redraw import BASE, erased_models, mitigations
from pipeline.stages.spared import TABLES, Spared, as_json

_PASSED = "passed"  # no caption draws; attacks say the rest
Row = dict[str, Any]
Picture = npt.NDArray[np.uint8]


def plan(context: Context) -> list[Part]:
    """One part, or none where nothing was drawn again."""
    if not any(context.run.glob("redraws/*.parquet")):
        return []
    tables = ("redraws/*.tar", "redraws/*.parquet", "attacks/*.parquet", *TABLES)
    paths = [path for pattern in tables for path in context.run.glob(pattern)]
    names = sorted(path.relative_to(context.run).as_posix() for path in paths)
    return with_calibration([Part("all", tuple(names))], context)


def run(part: Part, context: Context) -> Outcome:
    """Write verification.parquet and verification.json."""
    del part
    tables = sorted(context.run.glob("redraws/part-*.parquet"))
    drawings = read_parts(tables, schemas.REDRAWS).to_pylist()
    pictures = dict(_pictures(context, {row["key"] for row in drawings}))
    before = {_place(row): row for row in drawings if row["method"] == BASE}
    limits = limits_of(context)
    attacked, spared = Attacked(context), Spared(context)
    rows: list[Row] = []
    methods: dict[str, Row] = {}

    def drawn(method: str, sha256: str) -> list[Row]:
        after = [row for row in drawings if row["method"] == method]
        shared = {"method": method, "attack": "none", "model_sha256": sha256}
        return [row | shared for row in _by_caption(before, after, pictures, limits)]

    for method, folder in erased_models(context).items():
        sha256 = sha256_once(folder)
        own = drawn(method, sha256)
        rows += [*own, *attacked.rows(method, sha256)]
        evidence = attacked.evidence(method, sha256)
        collateral = spared.collateral(method, own)
        said = _conclude(own, context, evidence, collateral, oracle=attacked.oracle)
        methods[method] = said | {"model_sha256": sha256}
    for method, options in mitigations(context).items():
        sha256 = model_fingerprint(context)
        own = drawn(method, sha256)
        rows += own
        said = _conclude(own, context, (), spared.collateral(method, own), mitigated=True)
        how = options.model_dump(mode="json")
        methods[method] = said | {"model_sha256": sha256, "mitigation": how}
    write_rows(context.path(VERIFICATION), rows, schemas.VERIFICATION)
    text = json.dumps({"methods": methods}, indent=1, sort_keys=True, allow_nan=False)
    output = "verification.json"
    write_bytes(context.path(output), text.encode())
    n = len(drawings) + len(attacked)
    return Outcome((VERIFICATION, output), n, n)


def _by_caption(
    before: dict[tuple[str, str, int], Row],
    after: list[Row],
    pictures: dict[str, Picture],
    limits: Thresholds,
) -> Iterator[Row]:
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in after:
        grouped.setdefault((row["arm"], row["caption"]), []).append(row)
    for (arm, caption), now in sorted(grouped.items()):
        then = [before[_place(row)] for row in now]
        new = np.stack([pictures[row["key"]] for row in now])
        old = np.stack([pictures[row["key"]] for row in then])
        n, hits, hits_before = len(now), _own_hits(now, limits), _own_hits(then, limits)
        low, high = wilson(hits, n)
        yield {
            "arm": arm,
            "target_group": now[0]["target_group"],
            "prompt_id": now[0]["prompt_id"],
            "caption": caption,
            "n": n,
            "hits_before": hits_before,
            "hits_after": hits,
            "displaced_after": sum(row["verdict"] in HITS and not _is_own(row) for row in now),
            "rate_before": hits_before / n,
            "rate_after": hits / n,
            "ci_low": low,
            "ci_high": high,
            "drift": float(l2(old, new).mean()),
            "seed_drift": float(l2(old[:-1], old[1:]).mean()) if n > 1 else None,
        }


def _own_hits(rows: Sequence[Row], limits: Thresholds) -> int:
    """Drawings of the caption's own picture; of any training picture for the empty prompt.

    As in the verdict on a caption, drawings that only lean to the picture count if most do.
    """
    target = rows[0]["target_group"]
    hit = [row["verdict"] in HITS and _is_own(row) for row in rows]
    either = sum(h or row["leaning_group"] == target for h, row in zip(hit, rows, strict=True))
    agree = target is not None and is_most(either, len(rows), limits)
    return either if agree else sum(hit)


def _is_own(row: Row) -> bool:
    return row["target_group"] in (None, row["group_id"])


def _conclude(
    rows: list[Row],
    context: Context,
    attacks: Sequence[Evidence] = (),
    collateral: Collateral = NOT_MEASURED,
    *,
    oracle: bool = False,
    mitigated: bool = False,
) -> Row:
    config = context.config.verify
    arms = {arm: _pool([row for row in rows if row["arm"] == arm]) for arm in _arms(rows)}
    counted = [row for row in rows if _counts(row)]
    verdict, why = _verdict(_pool(counted), config.max_rate)
    said = UNCHANGED if mitigated else conclude(attacks, config.max_difference)
    if verdict == _PASSED or mitigated:
        verdict = said.verdict if verdict == _PASSED else verdict
        why = f"{why}; {said.why}"
    control, kept = arms.get("control"), arms.get("kept")
    fall = _fall(kept) if kept is not None else None
    limits = Limits(config.max_drift_ratio, config.max_lost, config.max_loss_change)
    ratio = _ratio(control) if control is not None else None
    damage = damages(limits, drift_ratio=ratio, fall=fall, collateral=collateral)
    return {
        "verdict": verdict,
        "damaged": bool(damage),
        "damage": damage,
        "collateral": as_json(collateral, config.max_loss_change),
        "kept_fall": fall,
        "oracle": oracle,
        "attacks": [finding.attack for finding in said.findings],
        "attack_findings": [asdict(finding) for finding in said.findings],
        "why": why,
        "held_out_that_drew": sum(row["arm"] == "held_out" for row in counted),
        "max_rate": config.max_rate,
        "max_difference": config.max_difference,
        "max_drift_ratio": config.max_drift_ratio,
        "max_lost": config.max_lost,
        "max_loss_change": config.max_loss_change,
        "arms": arms,
    }


def _counts(row: Row) -> bool:
    """Whether a caption's drawings say if it was erased: held out, it must have drawn before."""
    return row["arm"] == "trained" or (row["arm"] == "held_out" and row["hits_before"] > 0)


def _verdict(erased: Row, max_rate: float) -> tuple[str, str]:
    n = erased["n"]
    own, other = erased["hits_after"], erased["displaced_after"]
    shown = f"{own} of {n} drawings show the erased picture, {other} another training picture"
    _, high = wilson(own + other, n)
    low, _ = wilson(max(own, other), n)
    if low > max_rate:
        return "failed", f"{shown}; at most {max_rate:.0%} allowed"
    if high <= max_rate:
        return _PASSED, shown
    return "undecided", f"{shown}; too many or too few drawings to say at {max_rate:.0%}"


def _pool(rows: list[Row]) -> Row:
    total = {name: sum(row[name] for row in rows) for name in ("n", "hits_before", "hits_after")}
    n = total["n"]
    low, high = wilson(total["hits_after"], n)
    seeds = [row["seed_drift"] for row in rows if row["seed_drift"] is not None]
    return {
        **total,
        "captions": len(rows),
        "displaced_after": sum(row["displaced_after"] for row in rows),
        "rate_before": total["hits_before"] / n if n else 0.0,
        "rate_after": total["hits_after"] / n if n else 0.0,
        "ci_low": low,
        "ci_high": high,
        "drift": float(np.mean([row["drift"] for row in rows])) if rows else None,
        "seed_drift": float(np.mean(seeds)) if seeds else None,
    }


def _fall(arm: Row) -> tuple[float, float]:
    """By how much a rate fell, as an interval; drawings share their seeds, so it is a wide one."""
    return difference(arm["hits_before"], arm["n"], arm["hits_after"], arm["n"])


def _ratio(arm: Row) -> float:
    return float(arm["drift"] / arm["seed_drift"]) if arm["seed_drift"] else 0.0


def _arms(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def _place(row: Row) -> tuple[str, str, int]:
    return row["arm"], row["caption"], row["number"]


def _pictures(context: Context, keys: set[str]) -> Iterator[tuple[str, Picture]]:
    side = context.config.match.compare_px
    for path in sorted(context.run.glob("redraws/*.tar")):
        for sample in iterate_samples(path, keys):
            yield sample["__key__"], to_square(decode(sample["png"]), side)


STAGE = Stage("verify", 5, ("verify", "match", "verdict", "erased"), plan, run)
