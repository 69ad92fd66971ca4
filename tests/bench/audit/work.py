"""The parts of the benchmark, each of which is done once and can be killed."""

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import torch

from pipeline.batches import batched
from pipeline.generation.backend import load_model
from tests.bench.audit import truth
from tests.bench.audit.commands import run_cli
from tests.bench.audit.plans import Bench
from tests.bench.audit.planting import plant
from tests.bench.audit.sources import open_source
from tests.bench.audit.steps import made_from, once
from tests.bench.audit.training import SHIPPED, make_autoencoder, make_model

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


def audit(bench: Bench, name: str) -> None:
    """`unmemorize audit` of all captions whose truth is known."""
    planted = bench.set_of(name)
    captions = truth.captions_of(bench.at("sets", planted), bench.scale.singles)
    prompts = bench.at("prompts", f"{planted}.txt")
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text("".join(f"{text}\n" for text in sorted(row["caption"] for row in captions)))
    out = audit_folder(bench, name)
    how = bench.how
    seconds = run_cli(
        (
            "audit",
            f"--model={bench.at('models', name)}",
            f"--train={bench.at('dedup', planted)}",
            f"--prompts={prompts}",
            f"--set=generate.scheduler={how.scheduler}",
            f"--set=generate.steps={how.steps}",
            f"--set=generate.guidance={how.guidance}",
            f"--set=generate.per_prompt={bench.scale.per_prompt}",
            f"--set=match.compare_px={truth.SIDE}",
            *bench.audit,
        ),
        out,
    )
    times = out / "bench.json"
    if not times.is_file():
        times.write_text(json.dumps({"seconds": seconds}))


def audit_folder(bench: Bench, name: str) -> Path:
    """The run folder of one model's audit."""
    return bench.at("audits", name) / bench.variant
