"""`python -m tests.bench.embed [--photos FOLDER]`: the embed stage beside its limits, in one run.

The limits are the library calls that no embedding can do without, measured in the same way on the
same pictures: Pillow's decode, at full size and at the scale that the encoders need, and the
network's forward on a batch that is ready, at the best of some batch sizes. One thread must do one
after the other, so its limit is both in sequence. "forward" is the ratio to the forward alone.
Times are CPU seconds, which other programs disturb less. Nothing is asserted; timings belong to the
machine they were taken on.
"""

import argparse
import io
import multiprocessing
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import open_clip
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from pipeline.config import Embed, RunConfig, make_config
from pipeline.encoders import build_encoder
from pipeline.io.images import EXTENSIONS
from pipeline.io.shards import write_shard
from pipeline.runner.engine import Options, run_stages
from pipeline.runner.memory import keep_memory
from pipeline.runner.part import Context, Part
from pipeline.runner.progress import SilentProgress
from pipeline.stages import embed, scan
from pipeline.stages.ids import STAGE as IDS
from tests.bench.__main__ import seconds

_SHIPPED = Path(__file__).parents[2] / "pipeline" / "demo" / "assets" / "pictures"
_SHARDS = 2
_FORWARD_BATCHES = (4, 32)


@dataclass(frozen=True)
class Task:
    """What is measured on one shard; `batch` is that of a forward."""

    kind: str
    run: Path
    config: RunConfig
    part: Part
    batch: int = 0


def work(task: Task) -> Callable[[], object]:
    """The work of a task, ready to be timed."""
    context = Context(task.run, task.config)
    if task.kind == "ours":
        return lambda: embed.STAGE.run(task.part, context)
    with tarfile.open(context.path(task.part.inputs[2])) as tar:
        blobs = [tar.extractfile(member).read() for member in tar]
    if task.kind == "forward":
        return _forward(task, len(blobs))
    side = int(task.part.params["least_side"]) if task.kind == "decode" else None

    def decode() -> None:
        for blob in blobs:
            image = Image.open(io.BytesIO(blob))
            if side:
                image.draft(None, (side, side))
            image.load()

    return decode


def _forward(task: Task, n: int) -> Callable[[], object]:
    (spec,) = [s for s in task.config.embed.encoders.values() if s.kind in ("lite0", "open_clip")]
    encoder = build_encoder(spec)
    network = encoder._network if spec.kind == "lite0" else encoder._model.visual  # not public
    channels_last = torch.channels_last if spec.kind == "lite0" else torch.contiguous_format
    batch = torch.randn(n, 3, 224, 224).contiguous(memory_format=channels_last)

    def forward() -> None:
        with torch.inference_mode():
            for start in range(0, n, task.batch):
                network(batch[start : start + task.batch])

    return forward


def timed(task: Task) -> float:
    """CPU seconds that a task takes, the least of two."""
    torch.set_num_threads(1)
    keep_memory()  # as the runner does
    return seconds(work(task), 2, time.process_time)


def prepare(folder: Path, blobs: list[tuple[str, bytes]]) -> Path:
    """A run folder with two scanned shards."""
    for number in range(_SHARDS):
        samples = [
            {"__key__": f"{i:06d}", extension: blob}
            for i, (extension, blob) in enumerate(blobs[number::_SHARDS])
        ]
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        write_shard(folder / "shards" / f"{number:05d}.tar", samples)
    context = Context(folder, make_config({"runner": {"max_rejected": 1.0}}))
    run_stages([scan.STAGE, IDS], context, Options(), SilentProgress())
    return folder


class Case:
    """One set of encoders on one run folder, in one process or two."""

    def __init__(self, run: Path, encoders: dict, pool: ProcessPoolExecutor, rows: int) -> None:
        self._run, self._encoders, self._pool, self._rows = run, encoders, pool, rows

    def rates(self, kind: str, batch: int = 0) -> tuple[float, float]:
        """Pictures/s in one process, and in two at once."""
        tasks = self._tasks(kind, batch)
        alone = sum(timed(task) for task in tasks)
        together = max(self._pool.map(timed, tasks))
        return self._rows / alone, self._rows / together

    def _tasks(self, kind: str, batch: int) -> list[Task]:
        config = make_config({})
        encoders = Embed.model_validate({"encoders": self._encoders})
        config = config.model_copy(update={"embed": encoders})  # unlike a run's, without a match
        parts = embed.STAGE.plan(Context(self._run, config))
        return [Task(kind, self._run, config, part, batch) for part in parts]

    def forward(self) -> tuple[float, float]:
        """The best rates over batch sizes."""
        rates = [self.rates("forward", batch=batch) for batch in _FORWARD_BATCHES]
        return max(one for one, _ in rates), max(two for _, two in rates)


def compare(case: Case, network: bool) -> list[dict[str, float | None]]:
    """Rates of one process of one thread, then of two; None for a forward where there is none."""
    whole, reduced, ours = case.rates("whole"), case.rates("decode"), case.rates("ours")
    forward = case.forward() if network else (float("inf"), float("inf"))
    rows = []
    for i, mine in enumerate(ours):
        both = 1 / (1 / reduced[i] + 1 / forward[i])
        rates: dict[str, float | None] = {"processes": i + 1, "decode": whole[i]}
        rates |= {"reduced": reduced[i], "forward": forward[i] if network else None, "ours": mine}
        rates |= {"ours/decode": mine / whole[i], "ours/both": mine / both}
        rows.append(rates | {"ours/forward": mine / forward[i] if network else None})
    return rows


def _shown(row: dict[str, float | None]) -> list[str]:
    rates = [row[name] for name in ("decode", "reduced", "forward", "ours")]
    ratios = [row[name] for name in ("ours/decode", "ours/forward", "ours/both")]
    texts = ["-" if rate is None else f"{rate:,.0f}" for rate in rates]
    return [f"{row['processes']}", *texts, *("-" if r is None else f"{r:.2f}" for r in ratios)]


def read_pictures(folder: Path, count: int) -> list[tuple[str, bytes]]:
    """Pictures in files and tars of `folder`, as (extension, bytes)."""
    found: list[tuple[str, bytes]] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar:
                    extension = member.name.rsplit(".", 1)[-1].lower()
                    if member.isfile() and extension in EXTENSIONS and len(found) < count:
                        found.append((extension, tar.extractfile(member).read()))
        elif path.suffix[1:].lower() in EXTENSIONS:
            found.append((path.suffix[1:].lower(), path.read_bytes()))
    return found[:count]


def random_clip(folder: Path) -> dict[str, str]:
    """A ViT-B/32 of the published architecture whose weights are drawn at random."""
    torch.manual_seed(0)
    path = folder / "vit.safetensors"
    state = open_clip.create_model("ViT-B-32").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return {"kind": "open_clip", "model": "ViT-B-32", "weights": str(path)}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print the table and give its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=_SHIPPED, help="pictures, or tars of them")
    parser.add_argument("--count", type=int, default=256)
    options = parser.parse_args(arguments)
    blobs = read_pictures(options.photos, options.count)
    few = blobs[:16]
    table = Table("encoders", "processes", "decode", "reduced", "forward", "ours")
    for name in ("ours/decode", "ours/forward", "ours/both"):
        table.add_column(name)
    record: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        full, small = prepare(Path(folder, "full"), blobs), prepare(Path(folder, "small"), few)
        hashes = {"pdq": {"kind": "pdq"}, "pixels": {"kind": "pixels"}}
        lite = {"lite0": {"kind": "lite0"}}
        clip = {"clip": random_clip(Path(folder))}
        cases = [
            ("pdq", full, {"pdq": hashes["pdq"]}, False),
            ("pixels", full, {"pixels": hashes["pixels"]}, False),
            ("lite0", full, lite, True),
            ("lite0, pdq, pixels", full, lite | hashes, True),
            ("open_clip ViT-B-32", small, clip, True),
        ]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(_SHARDS, mp_context=spawn) as pool:
            for label, run, encoders, network in cases:
                rows = len(blobs if run is full else few)
                for row in compare(Case(run, encoders, pool, rows), network):
                    table.add_row(label, *_shown(row))
                    record.append({"encoders": label, **row})
    sizes = sum(len(blob) for _, blob in blobs) / len(blobs) / 1e3
    console = Console(width=130)
    console.print(f"pictures/s; {len(blobs)} pictures of {sizes:.0f} kB; torch {torch.__version__}")
    console.print(table)
    return record


if __name__ == "__main__":
    main()
