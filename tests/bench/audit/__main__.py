"""`make bench-audit`: is the verdict of `unmemorize audit` right, and at what cost?

    python -m tests.bench.audit [--jobs 2] [--carlini] [--photos FOLDER] [--smoke]

Four text-to-image models are trained on sets with planted duplicates; what each caption truly
reproduces is measured with fresh seeds; then `unmemorize dedup` and `unmemorize audit` are run as a
user would, and their findings stand beside the truth. Everything is kept in the working folder and
done once: a killed run goes on where it stopped. Nothing is asserted.

`--variant NAME` makes one more audit, with the options that `--audit-option` hands on
(--variant late --audit-option=--set=screen.steps=5). `--only` builds a part.
"""

import argparse
import multiprocessing
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch start their threads

import torch
from rich.console import Console

from tests.bench.audit import work
from tests.bench.audit.plans import SMOKE, SMOKE_MODELS, Bench, Scale
from tests.bench.audit.results import show
from tests.bench.audit.steps import Task, run_all
from tests.bench.audit.training import SHIPPED

MODELS = ("clipart-0", "scenes-1", "clipart-2", "scenes-3")
PHOTO_MODELS = ("clipart-0", "photos-1", "clipart-2", "photos-3")
CAPTIONS = 20


def tasks_of(bench: Bench, *, carlini: bool) -> tuple[dict[str, Task], dict[str, set[str]]]:
    """Every part of the benchmark, and which must be done before it; long ones first."""
    tasks: dict[str, Task] = {}
    needs: dict[str, set[str]] = {}

    def add(name: str, task: Task, *before: str) -> None:
        tasks[name], needs[name] = task, set(before)

    sources = dict.fromkeys(name.split("-", 1)[0] for name in bench.models)
    for source in [name for name in sources if name != SHIPPED]:
        add(f"autoencoder {source}", (work.make_autoencoder_of, (bench, source)))
    for name in bench.models:
        add(f"set {name}", (work.make_set, (bench, name)))
        source, _ = name.split("-", 1)
        vae = () if source == SHIPPED else (f"autoencoder {source}",)
        add(f"model {name}", (work.make_model_of, (bench, name)), f"set {name}", *vae)
        add(f"dedup {name}", (work.deduplicate, (bench, name)), f"set {name}")
    first, after = bench.models[0], bench.counterfactual
    audited = [*bench.models]
    if bench.scale.counterfactual:
        add(f"model {after}", (work.make_model_of, (bench, after)), f"dedup {first}")
        audited.append(after)
    for name in audited:
        before = f"model {name}", f"dedup {bench.set_of(name)}"
        add(f"truth {name}", (work.find_truth, (bench, name)), *before)
        for variant in (work.DEFAULT, bench.variant):
            if variant is not None:
                add(f"audit {name} {variant}", (work.audit, (bench, name, variant)), *before)
    for name in bench.models:
        before = f"model {name}", f"dedup {name}"
        add(f"detectors {name}", (work.audit, (bench, name, work.DETECTORS)), *before)
        add(f"calibration {name}", (work.calibrate, (bench, name)), *before)
        task = work.audit, (bench, name, work.CALIBRATED)
        add(f"calibrated {name}", task, f"calibration {name}")
    add("unconditional", (work.make_unconditional, (bench,)), f"set {first}")
    if carlini:
        add("carlini", (work.draw_carlini, (bench, CAPTIONS)), f"truth {first}")
    return tasks, needs


def main() -> None:
    """Build what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(".bench/audit"))
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--smoke", action="store_true", help="one tiny model, a minute")
    parser.add_argument("--photos", type=Path, help="photographs in the place of drawn scenes")
    parser.add_argument("--carlini", action="store_true", help="500 generations of 20 captions")
    parser.add_argument("--variant", help="one more audit, of this name")
    parser.add_argument("--audit-option", action="append", default=[], help="for `audit`")
    parser.add_argument("--only", help="build no further than the parts with this in their names")
    given = parser.parse_args()
    models = SMOKE_MODELS if given.smoke else PHOTO_MODELS if given.photos else MODELS
    bench = Bench(
        work=given.work.resolve() / ("smoke" if given.smoke else "."),
        models=models,
        scale=SMOKE if given.smoke else Scale(),
        photos=given.photos and given.photos.resolve(),
        extra=tuple(given.audit_option),
        variant=given.variant,
    )
    console = Console(width=120)
    console.print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"{given.jobs} processes of one thread"
    )
    if not torch.cuda.is_available():
        console.print("a GAN on the same data: left out, it wants a GPU")
    start = time.perf_counter()
    tasks, needs = tasks_of(bench, carlini=given.carlini)
    if given.only:
        tasks = _with_needs(tasks, needs, given.only)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.jobs, mp_context=context) as pool:
        run_all(tasks, needs, pool)
    console.print(f"built in {(time.perf_counter() - start) / 60:.1f} min")
    if not given.only:
        show(bench, console)


def _with_needs(tasks: dict[str, Task], needs: dict[str, set[str]], part: str) -> dict[str, Task]:
    wanted = {name for name in tasks if part in name}
    while more := {before for name in wanted for before in needs[name]} - wanted:
        wanted |= more
    return {name: task for name, task in tasks.items() if name in wanted}


if __name__ == "__main__":
    main()
