"""Findings of the audits joined with the truth, and what is printed of them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from pipeline.io.manifest import read_images
from pipeline.io.runfolder import FINDINGS
from tests.bench.audit import carlini, tables
from tests.bench.audit.costs import forwards_of_columns
from tests.bench.audit.measures import NEGATIVE, POSITIVE, Row, flagged, rate, verdict_rates
from tests.bench.audit.plans import Bench
from tests.bench.audit.sheet import disagreements, draw_sheet
from tests.bench.audit.work import CALIBRATED, CONTROLS, DEFAULT, DETECTORS, audit_folder


def joined(bench: Bench, name: str, variant: str) -> list[Row]:
    """A row a caption whose truth is known: the truth, the finding, and the pictures it names."""
    run = audit_folder(bench, name, variant)
    findings = {row["prompt_id"]: row for row in pq.read_table(run / FINDINGS).to_pylist()}
    pictures = _picture_of(bench, bench.set_of(name))
    controls = _prompts(audit_folder(bench, name, CONTROLS))
    rows = []
    for row in truth_rows(bench, name):
        finding = findings.get(row["prompt_id"])
        if finding is None:
            raise RuntimeError(f"{run}: no finding for {row['caption']!r}")
        named = {pictures[i] for i in finding["image_ids"] or () if i in pictures}
        more = {"verdict": finding["verdict"], "found_pictures": named, "finding": finding}
        rows.append(row | more | {"calibrated_on": row["prompt_id"] in controls})
    return rows


def _prompts(run: Path) -> set[int]:
    if not (run / FINDINGS).is_file():
        return set()
    return set(pq.read_table(run / FINDINGS, columns=["prompt_id"])["prompt_id"].to_pylist())


def truth_rows(bench: Bench, name: str) -> list[Row]:
    """The truth of one model."""
    table = pq.read_table(bench.at("truth", name) / "truth.parquet")
    return [row | {"model": name} for row in table.to_pylist()]


def _picture_of(bench: Bench, name: str) -> dict[int, str]:
    planted = pq.read_table(bench.at("sets", name) / "planted.parquet").to_pylist()
    picture = {row["key"]: row["picture_id"] for row in planted}
    images = read_images(bench.at("dedup", name), columns=["image_id", "key"]).to_pylist()
    return {row["image_id"]: picture[row["key"]] for row in images if row["key"] in picture}


def show(bench: Bench, console: Console) -> None:
    """Print every table that can be made of what is there, and write results.json."""
    results: dict[str, Any] = {"models": bench.models, "scale": asdict(bench.scale)}
    for variant in (DEFAULT, CALIBRATED, bench.variant):
        runs = [audit_folder(bench, name, variant) for name in bench.models if variant]
        if runs and all((run / FINDINGS).is_file() for run in runs):
            results[str(variant)] = show_verdicts(bench, str(variant), console)
        elif variant:
            console.print(f"{variant}: not every model was audited so")
    results["detectors"] = show_detectors(bench, console)
    results |= show_curves(bench, console)
    results |= show_unconditional(bench, console)
    results |= show_carlini(bench, console)
    out = bench.work / "results.json"
    out.write_text(json.dumps(results, indent=1, default=str))
    console.print(f"wrote {out}")


def show_verdicts(bench: Bench, variant: str, console: Console) -> dict[str, Any]:
    """Verdicts against the truth, what they cost, and how sure they are."""
    rows = [row for name in bench.models for row in joined(bench, name, variant)]
    for table in tables.verdicts(rows, f"{variant}, all models"):
        console.print(table)
    console.print(tables.calibration(rows))
    console.print(tables.costs(rows, bench.how.steps))
    sheet = bench.work / f"disagreements-{variant}.png"
    for line in draw_sheet(bench, disagreements(rows), sheet):
        console.print(line, markup=False, highlight=False)
    return {
        "verdict": {name: asdict(value) for name, value in verdict_rates(rows).items()},
        "forwards": tables.forwards(rows, bench.how.steps),
        "calibration": tables.calibration(rows),
    }


def show_detectors(bench: Bench, console: Console) -> list[dict[str, Any]]:
    """Every score, of all models by one threshold and of each by its own."""
    rows = [row for name in bench.models for row in joined(bench, name, DETECTORS)]
    costs = [forwards_of_columns(audit_folder(bench, name, DETECTORS)) for name in bench.models]
    pooled = tables.detectors(rows, costs[0])
    console.print(tables.detector_table(pooled, "scores, all models by one threshold"))
    found = [{"model": "all"} | row for row in pooled]
    for name, cost in zip(bench.models, costs, strict=True):
        own = tables.detectors([row for row in rows if row["model"] == name], cost)
        console.print(tables.detector_table(own, f"scores, {name}"))
        found += [{"model": name} | row for row in own]
    return found


def show_curves(bench: Bench, console: Console) -> dict[str, Any]:
    """Reproduction by copies, and what deduplication changes."""
    truth = [row for name in bench.models for row in truth_rows(bench, name)]
    console.print(tables.curves(truth, "reproduction of the own picture, all models"))
    if not bench.scale.counterfactual:
        return {}
    name = bench.counterfactual
    before, after = joined(bench, bench.models[0], DEFAULT), joined(bench, name, DEFAULT)
    console.print(tables.curves(before, f"the same, {bench.models[0]}"))
    console.print(tables.curves(after, f"the same, {name}"))
    found = tables.extraction(before, after)
    console.print(tables.extraction_table(found))
    return {"extraction": found}


def show_unconditional(bench: Bench, console: Console) -> dict[str, Any]:
    """What the model without captions reproduces, by copies; nothing where it is not there."""
    path = bench.at("unconditional", bench.unconditional) / "extracted.json"
    if not path.is_file():
        return {}
    found = json.loads(path.read_text())
    table = tables._table(
        f"without captions: pictures extracted by {found['drawn']:,} drawings (Carlini, adaptive)",
        "copies",
        "pictures",
        "extracted",
        "drawings that did",
    )
    for row in found["by_copies"]:
        table.add_row(*(f"{row[n]:,}" for n in ("k", "pictures", "extracted", "drawings")))
    console.print(table)
    return {"unconditional": found}


def show_carlini(bench: Bench, console: Console) -> dict[str, Any]:
    """The rule of 500 generations on the captions that were drawn in full, if any were."""
    name = bench.models[0]
    folders = sorted(path.parent for path in bench.at("carlini", name).glob("*/drawn.npy"))
    if not folders:
        return {}
    known = {str(row["prompt_id"]): row for row in joined(bench, name, DEFAULT)}
    rows = [known[folder.name] for folder in folders]
    drawings = [np.load(folder / "drawn.npy", allow_pickle=False) for folder in folders]
    found = carlini.points(rows, drawings, bench.how.steps)
    ours = (
        rate([row for row in rows if row["label"] == POSITIVE], flagged),
        rate([row for row in rows if row["label"] == NEGATIVE], flagged),
        float(np.mean([row["finding"]["n_unet_forwards"] for row in rows])),
    )
    console.print(tables.carlini_table(found, ours))
    return {"carlini": [asdict(point) for point in found]}
