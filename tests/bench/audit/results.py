"""Findings of the audits joined with the truth, and what is printed of them."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from pipeline.io.runfolder import FINDINGS, read_images
from pipeline.io.runjson import read_run_config
from tests.bench.audit import carlini, tables
from tests.bench.audit.measures import NEGATIVE, POSITIVE, Row, flagged, rate, verdict_rates
from tests.bench.audit.plans import Bench
from tests.bench.audit.work import audit_folder


def joined(bench: Bench, name: str) -> list[Row]:
    """A row a caption whose truth is known: the truth, the finding, and the pictures it names."""
    run = audit_folder(bench, name)
    config = read_run_config(run)
    findings = {row["prompt_id"]: row for row in pq.read_table(run / FINDINGS).to_pylist()}
    pictures = _picture_of(bench, bench.set_of(name))
    rows = []
    for row in truth_rows(bench, name):
        finding = findings.get(row["prompt_id"])
        if finding is None:
            raise RuntimeError(f"{run}: no finding for {row['caption']!r}")
        named = {pictures[i] for i in finding["image_ids"] or () if i in pictures}
        rows.append(
            row
            | {"finding": finding, "verdict": finding["verdict"], "found_pictures": named}
            | {"config": config}
        )
    return rows


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
    rows = [row for name in bench.models for row in joined(bench, name)]
    steps = bench.how.steps
    for table in tables.verdicts(rows):
        console.print(table)
    console.print(tables.calibration(rows))
    console.print(tables.costs(rows, steps))
    detectors = tables.detectors(rows)
    console.print(tables.detector_table(detectors, "scores, positive against negative captions"))
    truth = [row for name in bench.models for row in truth_rows(bench, name)]
    console.print(tables.curves(truth, "reproduction of the own picture, all models"))
    results: dict[str, Any] = {
        "models": bench.models,
        "scale": asdict(bench.scale),
        "verdict": {name: asdict(value) for name, value in verdict_rates(rows).items()},
        "forwards": tables.forwards(rows, steps),
        "detectors": detectors,
    }
    if (bench.at("truth", bench.counterfactual) / "truth.parquet").is_file():
        before, after = truth_rows(bench, bench.models[0]), truth_rows(bench, bench.counterfactual)
        console.print(tables.curves(after, f"the same, {bench.counterfactual}"))
        found = tables.extraction(before, after)
        console.print(tables.extraction_table(found))
        results["extraction"] = found
    results |= show_unconditional(bench, console)
    results |= show_carlini(bench, console)
    out = bench.work / f"results-{bench.variant}.json"
    out.write_text(json.dumps(results, indent=1, default=str))
    console.print(f"wrote {out}")


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
    known = {str(row["prompt_id"]): row for row in joined(bench, name)}
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
