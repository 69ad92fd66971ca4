"""`make bench-erase`: what do the erasers take away, from what, and what does it cost?

    python -m tests.bench.erase [--targets 1 4 16] [--methods esd-gt-x uce] [--work W] [--smoke]

The planted model of `make bench-audit` (built here where the working folder has none) has its
memorized pictures erased by each method with `unmemorize erase`, and `unmemorize verify` looks at
all of them at once: fresh seeds, held-out captions, the embedding attack beside pictures that were
never trained on, other memorized pictures, controls. Everything is kept in the working folder under
its settings and done once: a killed run goes on where it stopped. Nothing is asserted.

`--also 'NAME={objective: esd-gt, parameters: x, eta: 2}'` adds a row of your own.
"""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch start their threads

import torch
from rich.console import Console

from pipeline.config import EraseMethod
from tests.bench.audit.__main__ import MODELS
from tests.bench.audit.plans import SMOKE, SMOKE_MODELS, Bench, Scale
from tests.bench.audit.results import truth_rows
from tests.bench.audit.truth import read_originals
from tests.bench.erase.measures import Figures, read_figures
from tests.bench.erase.plans import METHODS, RETRAINED, USUAL, Budget, chosen_methods
from tests.bench.erase.runs import Cost, Model, erase_with, retrained, verify_all
from tests.bench.erase.similarity import similar
from tests.bench.erase.table import NOTES, WIDTH, results_table
from tests.bench.erase.targets import make_findings, prepare

_HOW_TO_RETRAIN = "dedup and retrain: no such model here; the same command with --retrain makes it"
Rows = list[tuple[Figures, Cost | None]]


def main() -> None:
    """Build what is missing, and print the table."""
    given = _parser().parse_args()
    console = Console(width=WIDTH)
    try:
        methods = chosen_methods(given.methods, given.also, given.iterations)
    except ValueError as error:
        raise SystemExit(f"bench-erase: {error}") from error
    bench = Bench(
        work=given.work.resolve() / ("smoke" if given.smoke else "."),
        models=SMOKE_MODELS if given.smoke else (given.model, *MODELS[1:]),
        scale=SMOKE if given.smoke else Scale(),
        photos=given.photos and given.photos.resolve(),
    )
    torch.set_num_threads(1)
    budget = Budget(
        per_prompt=given.per_prompt,
        others=given.others,
        attempts=given.attempts,
        attack_iterations=given.attack_iterations,
        unseen=given.unseen,
    )
    name = bench.models[0]
    prepare(bench, name, retrain=given.retrain)
    make_findings(bench, name)
    rows = [
        row
        for targets in given.targets
        for row in _of_targets(bench, methods, targets, budget, given.oracle)
    ]
    machine = platform.processor() or platform.machine()
    console.print(f"{machine}, torch {torch.__version__}, one process of one thread")
    console.print(results_table(rows, f"{name}: erased by {len(methods)} methods"))
    floor = "a model that never saw them" if given.oracle else "pictures never trained on"
    notes = [note.format(floor=floor) for note in NOTES]
    notes += _spent(methods, budget, given.targets)
    notes += [] if retrained(bench) else [_HOW_TO_RETRAIN]
    for line in notes:
        console.print(line, markup=False, highlight=False)
    out = bench.at("erase", name) / "results.json"
    out.write_text(json.dumps([_as_json(*row) for row in rows], indent=1))
    console.print(f"wrote {out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(".bench/audit"), help="of bench-audit")
    parser.add_argument("--model", default=MODELS[0], help="SOURCE-SEED, as bench-audit names it")
    parser.add_argument("--targets", type=int, nargs="+", default=[4], help="erased at once")
    parser.add_argument("--methods", nargs="*", default=USUAL, help=", ".join(METHODS))
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME={...}")
    parser.add_argument("--iterations", type=int, help="of every method, for its own")
    parser.add_argument("--per-prompt", type=int, default=Budget.per_prompt)
    parser.add_argument("--others", type=int, default=Budget.others, help="captions of an arm")
    parser.add_argument("--attempts", type=int, help="of the attack on each picture")
    parser.add_argument("--attack-iterations", type=int, default=Budget.attack_iterations)
    parser.add_argument("--unseen", type=int, default=Budget.unseen, help="pictures attacked, too")
    parser.add_argument("--oracle", help="a model that never saw the targets, as the reference")
    parser.add_argument(
        "--retrain", action="store_true", help="train on the deduplicated set, where that is left"
    )
    parser.add_argument("--photos", type=Path, help="the source of a model photos-SEED")
    parser.add_argument("--smoke", action="store_true", help="on bench-audit's tiny model")
    return parser


def _of_targets(
    bench: Bench, methods: Sequence[EraseMethod], targets: int, budget: Budget, oracle: str | None
) -> Rows:
    """The base model, each method that did not fail, and the retrained model, if there is one."""
    name, models = bench.models[0], dict[str, Model]()
    for method in methods:
        try:
            models[method.name] = erase_with(bench, name, method, targets)
        except RuntimeError as error:
            print(f"{method.name}, {targets} targets: {error}", flush=True)
        else:
            print(f"done: {method.name}, {targets} targets", flush=True)
    if (other := retrained(bench)) is not None:
        models[RETRAINED] = other
    if not models:
        return []
    run = verify_all(bench, name, list(models.values()), targets, budget, oracle)
    print(f"done: verify, {targets} targets", flush=True)
    shown = {model.name: (short, model.cost) for short, model in models.items()}
    originals = read_originals(bench.at("sets", bench.set_of(name)))
    picture_of = {row["prompt_id"]: row["picture_id"] for row in truth_rows(bench, name)}
    rows: Rows = []
    for figures in read_figures(run, list(shown), targets):
        short, cost = shown.get(figures.method, (figures.method, None))
        again = similar(run, figures.method, picture_of, originals)
        rows.append((replace(figures, method=short, by_similarity=again), cost))
    return rows


def _spent(methods: Sequence[EraseMethod], budget: Budget, targets: Sequence[int]) -> list[str]:
    """The settings that the figures depend on."""
    lines = [
        f"{method.name}: {json.dumps(method.model_dump(exclude_none=True, exclude_defaults=True))}"
        for method in methods
    ]
    for count in targets:
        lines.append(f"attack, {count} targets: {json.dumps(budget.embedding(count))}")
    return lines


def _as_json(figures: Figures, cost: Cost | None) -> dict[str, Any]:
    return asdict(figures) | {"cost": cost and asdict(cost)}


if __name__ == "__main__":
    main()
