"""The parts of the benchmark, each of which is done once and can be killed."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import torch

from pipeline.batches import batched
from pipeline.detection.probe_detectors import PROBE_DETECTORS
from pipeline.generation.backend import load_model
from tests.bench.audit import carlini, truth, unconditional
from tests.bench.audit.commands import run_cli
from tests.bench.audit.plans import Bench
from tests.bench.audit.planting import plant
from tests.bench.audit.sources import open_source
from tests.bench.audit.steps import made_from, once
from tests.bench.audit.training import SHIPPED, make_autoencoder, make_model

DEFAULT, CALIBRATED, DETECTORS, CONTROLS = "default", "calibrated", "detectors", "controls"
"""Audits: as the command is; with the file of `calibrate audit`; with every detector that asks the
model, and a single drawing; of control captions alone, for the calibration."""
_PER_PART = 32


def make_set(bench: Bench, name: str) -> None:
    """Plant the training set of a model."""
    plan, source = bench.plan(name), bench.source(name)
    once(
        bench.at("sets", name),
        asdict(plan) | {"source": Path(source).name},
        lambda out: plant(open_source(source), out, plan),
    )


def make_autoencoder_of(bench: Bench, source: str) -> None:
    """The autoencoder of a source that the shipped one does not know."""
    folder = bench.at("autoencoders", source)
    make_autoencoder(bench.source(source), folder, bench.scale.autoencoder_steps)


def make_model_of(bench: Bench, name: str) -> None:
    """Train a model on its planted set, the counterfactual on what deduplication left of it."""
    planted = bench.set_of(name)
    source, seed = planted.split("-")
    shards = bench.at("sets", planted) / "shards"
    if name == bench.counterfactual:
        shards = bench.at("dedup", planted) / "export" / "shards"
    make_model(
        shards,
        bench.at("models", name),
        steps=bench.scale.steps,
        seed=int(seed),
        autoencoder=None if source == SHIPPED else bench.at("autoencoders", source),
    )


def deduplicate(bench: Bench, name: str) -> None:
    """`unmemorize dedup` with its defaults."""
    run_cli(("dedup", str(bench.at("sets", name) / "shards")), bench.at("dedup", name))


def find_truth(bench: Bench, name: str) -> None:
    """Draw every caption, a part a block of captions; then one table."""
    torch.set_num_threads(1)
    scale, folder = bench.scale, bench.at("truth", name)
    target = folder / "truth.parquet"
    if target.is_file():
        return
    planted = bench.at("sets", bench.set_of(name))
    captions = truth.captions_of(planted, scale.singles)
    originals = truth.read_originals(planted)
    model = load_model(bench.at("models", name))
    found: list[truth.Row] = []
    for number, block in enumerate(batched(captions, _PER_PART)):
        part = folder / f"part-{number:03d}"
        rows = list(block)
        if not made_from(part):
            measured = truth.measure(model, rows, originals, bench.how, scale.seeds)
            facts = {"captions": len(rows), "seeds": scale.seeds}
            once(part, facts, lambda out, m=measured: truth.write_truth(out / "truth.parquet", m))
        found += pq.read_table(part / "truth.parquet").to_pylist()
    truth.write_truth(target, found)


def audit(bench: Bench, name: str, variant: str) -> None:
    """`unmemorize audit` of all captions whose truth is known, in one of the ways below."""
    planted = bench.set_of(name)
    captions = truth.captions_of(bench.at("sets", planted), bench.scale.singles)
    prompts = bench.at("prompts", f"{name}.txt")
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text("".join(f"{text}\n" for text in sorted(row["caption"] for row in captions)))
    options = [f"--prompts={prompts}", f"--set=generate.per_prompt={bench.scale.per_prompt}"]
    if variant == CALIBRATED:
        calibration = bench.at("calibrations", f"{name}.json")
        if not calibration.is_file():
            return
        options.append(f"--calibration={calibration}")
    elif variant == DETECTORS:
        probes = ", ".join(probe.name for probe in PROBE_DETECTORS)
        options.append(f"--set=probe.detectors=[{probes}]")
        options[1] = "--set=generate.per_prompt=1"
    elif variant == bench.variant:
        options += bench.extra
    _audit(bench, name, variant, options)


def calibrate(bench: Bench, name: str) -> None:
    """`unmemorize audit` of captions of pictures seen once, then `unmemorize calibrate audit`."""
    options = [
        f"--set=generate.per_prompt={bench.scale.per_prompt}",
        "--set=prompts.max_groups=1",
        f"--set=prompts.controls={bench.scale.controls}",
        "--exhaustive",
    ]
    _audit(bench, name, CONTROLS, options)
    out = bench.at("calibrations", f"{name}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        run_cli(("calibrate", "audit", str(audit_folder(bench, name, CONTROLS))), out)
    except RuntimeError as error:
        print(f"{name}: not calibrated: {error}", flush=True)


def _audit(bench: Bench, name: str, variant: str, options: list[str]) -> None:
    how, out = bench.how, audit_folder(bench, name, variant)
    seconds = run_cli(
        (
            "audit",
            f"--model={bench.at('models', name)}",
            f"--train={bench.at('dedup', bench.set_of(name))}",
            f"--set=generate.scheduler={how.scheduler}",
            f"--set=generate.steps={how.steps}",
            f"--set=generate.guidance={how.guidance}",
            f"--set=match.compare_px={truth.SIDE}",
            *options,
        ),
        out,
    )
    times = out / "bench.json"
    if not times.is_file():
        times.write_text(json.dumps({"seconds": seconds}))


def audit_folder(bench: Bench, name: str, variant: str) -> Path:
    """The run folder of one model's audit."""
    return bench.at("audits", name) / variant


def make_unconditional(bench: Bench) -> None:
    """Train the model without captions on the first set, draw from it, count what it reproduces."""
    torch.set_num_threads(1)
    planted = bench.at("sets", bench.models[0])
    ids, pictures = unconditional.training_pictures(planted)
    folder = bench.at("models", bench.unconditional)
    steps, drawn = bench.scale.unconditional_steps, bench.scale.unconditional_drawn

    def build(out: Path) -> None:
        unconditional.train(pictures, out, steps, seed=0)

    def count(out: Path) -> None:
        found = unconditional.extracted(unconditional.draw(folder, drawn, seed=1), ids, pictures)
        copies = Counter(ids)
        by_copies = [
            {
                "k": k,
                "pictures": sum(n == k for n in copies.values()),
                "extracted": sum(copies[name] == k for name in found),
                "drawings": sum(n for name, n in found.items() if copies[name] == k),
            }
            for k in sorted(set(copies.values()))
        ]
        (out / "extracted.json").write_text(json.dumps({"drawn": drawn, "by_copies": by_copies}))

    once(folder, {"steps": steps}, build)
    once(bench.at("unconditional", bench.unconditional), {"steps": steps, "drawn": drawn}, count)


def draw_carlini(bench: Bench, captions: int) -> None:
    """500 generations of each of some captions of the first model."""
    torch.set_num_threads(1)
    name = bench.models[0]
    rows = pq.read_table(bench.at("truth", name) / "truth.parquet").to_pylist()
    model = load_model(bench.at("models", name))
    for row in carlini.chosen(rows, captions):
        folder = bench.at("carlini", name) / str(row["prompt_id"])
        once(
            folder,
            {"drawn": carlini.DRAWN},
            lambda out, row=row: carlini.draw_in_full(model, row, bench.how, out),
        )
