"""Our command and the other tools on one set of pictures, each in processes of its own."""

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from pipeline.io import schemas
from pipeline.io.manifest import read_images
from pipeline.io.runfolder import DUPLICATES, list_image_parts, list_pairs
from pipeline.io.tables import read_parts
from tests.bench.dedup_peers import TOOLS
from tests.bench.pair_measures import (
    Found,
    Rows,
    one_a_component,
    unique_pairs,
    with_exact_copies,
)
from tests.bench.peers import environment, python_of
from tests.bench.pictures import PictureSet
from tests.bench.processes import Finished, watch

_ROOT = Path(__file__).parents[2]
_EXACT = ("bytes", "pixels")
_SOUND = (0, 2)  # 2: done, and more was rejected than the configuration allows


@dataclass(frozen=True)
class System:
    """A row of the tables. `arguments` follow our command; `peer` names another tool's."""

    name: str
    setting: str
    arguments: tuple[str, ...] = ()
    peer: str | None = None

    @property
    def label(self) -> str:
        """Name and setting."""
        return f"{self.name} {self.setting}"


@dataclass(frozen=True)
class Result:
    """What a system found, and what the whole command took. `rejected` files were not compared."""

    system: System
    seconds: float
    peak: int
    found: Found
    rejected: int

    def figures(self) -> dict[str, object]:
        """For the record."""
        row = {"system": self.system.name, "setting": self.system.setting}
        return row | {
            "seconds": self.seconds,
            "peak_bytes": self.peak,
            "rejected": self.rejected,
        }


def our_systems(extra: Sequence[str], threads: int) -> list[System]:
    """The default, on all cores as the peers and on one, and those given as NAME=ARGUMENTS."""
    systems = [System("unmemorize", "default")]
    if threads > 1:
        systems.append(System("unmemorize", "--threads 1", ("--threads", "1")))
    for option in ("--verify", "--encoder pdq"):
        systems.append(System("unmemorize", option, tuple(option.split())))
    for text in extra:
        name, _, arguments = text.partition("=")
        systems.append(System(name, arguments, tuple(shlex.split(arguments))))
    return systems


def peer_systems(names: Sequence[str] = tuple(TOOLS)) -> list[System]:
    """The other tools."""
    return [System(*TOOLS[name][:2], peer=name) for name in names]


def run_all(
    systems: Sequence[System], pictures: PictureSet, work: Path, threads: int, console: Console
) -> Iterator[Result]:
    """One after the other; one that cannot run is said and left out."""
    pictures.warm()
    ours([], Path(os.devnull), ["--help"])  # the compiler's files are there for all
    for system in systems:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            run = _ours if system.peer is None else _peer
            result = run(system, pictures, Path(folder), work, threads)
        if isinstance(result, str):
            console.print(f"{system.label}: left out: {result}", markup=False)
            continue
        console.print(f"{system.label}: {result.seconds:.0f} s", markup=False)
        yield result


def ours(shards: Sequence[Path], out: Path, arguments: Sequence[str]) -> Finished:
    """`unmemorize dedup` as a user types it, from this source tree."""
    command = [sys.executable, "-m", "pipeline", "dedup", *map(str, shards)]
    return watch([*command, "--out", str(out), *arguments], own_environment())


def own_environment() -> dict[str, str]:
    """This process's variables as a user's, with this source tree on the path."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return variables | {"PYTHONPATH": path}


def _ours(
    system: System, pictures: PictureSet, folder: Path, work: Path, threads: int
) -> Result | str:
    del work, threads
    run = folder / "run"
    done = ours([pictures.shards], run, system.arguments)
    if done.status not in _SOUND or not (run / DUPLICATES).is_file():
        return done.why
    found, rejected = read_run(run, pictures)
    return Result(system, done.seconds, done.peak, found, rejected)


def _peer(
    system: System, pictures: PictureSet, folder: Path, work: Path, threads: int
) -> Result | str:
    python = python_of(str(system.peer), work)
    if python is None:
        return "not installed; see `make bench-peers`"
    out = folder / "pairs.json"
    script = Path(__file__).with_name("dedup_peers.py")
    command = [python, script, system.peer, pictures.files, out, threads]
    done = watch([str(word) for word in command], environment())
    if done.status or not out.is_file():
        return done.why
    pairs = unique_pairs([[int(Path(name).stem) for name in pair] for pair in _read(out)])
    kept = one_a_component(pairs, len(pictures.names))
    return Result(system, done.seconds, done.peak, Found(pairs, kept), 0)


def read_run(run: Path, pictures: PictureSet) -> tuple[Found, int]:
    """Pairs and survivors of a run folder as rows of the set, and how many files it rejected."""
    images = read_images(run, list_image_parts(run), columns=["image_id", "url"])
    ids = images["image_id"].to_numpy()
    rows = np.array([pictures.row_of(url) for url in images["url"].to_pylist()], np.int64)
    order = np.argsort(ids)

    def row(column: object) -> Rows:
        return rows[order[np.searchsorted(ids[order], np.asarray(column))]]

    table = read_parts((run / path for path in list_pairs(run)), schemas.PAIRS)
    pairs = np.stack([row(table["id_a"]), row(table["id_b"])], axis=1)
    is_exact = np.isin(table["reason"].to_pylist(), _EXACT)
    n = len(pictures.names)
    groups = pq.read_table(run / DUPLICATES, columns=["image_id", "keep"])
    kept = row(groups["image_id"])[np.asarray(groups["keep"])]
    unread = np.setdiff1d(np.arange(n), row(groups["image_id"]))
    pairs = with_exact_copies(pairs[is_exact], pairs[~is_exact], n)
    return Found(pairs, np.sort(np.concatenate([kept, unread]))), len(unread)


def _read(path: Path) -> list[list[str]]:
    return list(json.loads(path.read_text()))
