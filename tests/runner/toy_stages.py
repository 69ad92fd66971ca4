"""Two small stages for the runner's tests, and ways to run, kill and compare them.

`count` counts the words of text files, a part a file; `sum` adds the counts up. A text that starts
with `!` misbehaves as it says. Everything is found by name, so that worker processes and forked
children import it.
"""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import torch
from distributed import Client, get_worker

from pipeline.config import RunConfig, make_config
from pipeline.errors import UnmemorizeError
from pipeline.io.atomic import TEMPORARY_PREFIX, atomic_path, write_bytes
from pipeline.runner.engine import Options, Summary, run_stages
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.runner.progress import Progress, SilentProgress

TEXTS = {"a": "one two three\n", "b": "four five\nsix\n", "c": "seven\n"}
ACCOUNTS = {"logs", ".lock", "receipts/digests.json"}  # what may differ between equal runs


def write_texts(root: Path, texts: dict[str, str]) -> Path:
    """Text files outside the run folder; returns the folder of the run, not yet made."""
    folder = root / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return root / "run"


def context_of(run: Path, **overrides: object) -> Context:
    """The context of a toy run; `runner__workers=2` stands for `--set runner.workers=2`."""
    values = {"runner": {"min_free_gb": 0}}
    texts = sorted(str(path) for path in (run.parent / "texts").glob("*.txt"))
    settings = {"dataset__shards": texts, **overrides}
    sets = [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in settings.items()]
    config: RunConfig = make_config(values, sets)
    return Context(run, config)


def plan_count(context: Context) -> list[Part]:
    paths = [Path(shard) for shard in context.config.dataset.shards]
    return [Part(p.stem, (relative(p, context.run),), {"unit": "word"}) for p in paths]


def run_count(part: Part, context: Context) -> Outcome:
    source = context.path(part.inputs[0])
    text = source.read_text()
    with atomic_path(context.path(f"words/{part.name}")) as folder:
        folder.mkdir()
        (folder / "first.txt").write_text(text[:3])
        misbehave(text, source)
        (folder / "drawn.txt").write_text(f"{np.random.rand()} {torch.rand(1).item()}")
    lines = text.splitlines()
    short = [line for line in lines if len(line) <= context.config.scan.max_caption_chars]
    words = sum(len(line.split()) for line in short)
    counts = f"counts/{part.name}.json"
    write_bytes(context.path(counts), json.dumps({"words": words}).encode())
    rejected = {"long": len(lines) - len(short)} if len(short) < len(lines) else {}
    return Outcome((counts, f"words/{part.name}"), len(lines), len(short), rejected)


def plan_sum(context: Context) -> list[Part]:
    paths = sorted(context.path("counts").glob("*.json"))
    return [Part("all", tuple(relative(p, context.run) for p in paths))]


def run_sum(part: Part, context: Context) -> Outcome:
    words = [json.loads(context.path(name).read_text())["words"] for name in part.inputs]
    write_bytes(context.path("total.json"), json.dumps(sum(words)).encode())
    return Outcome(("total.json",), len(words), len(words))


COUNT = Stage("count", 1, ("scan",), plan_count, run_count)
SUM = Stage("sum", 1, (), plan_sum, run_sum)
STAGES = (COUNT, SUM)
TOLERANT = (dataclasses.replace(COUNT, tolerant=True), SUM)


def misbehave(text: str, source: Path) -> None:
    """Do what a text that starts with `!` asks for: each try is recorded beside it."""
    if not text.startswith("!"):
        return
    tries = source.with_suffix(".tries")
    with tries.open("a") as handle:
        handle.write(f"{os.getpid()}\n")
    first = len(tries.read_text().splitlines()) == 1
    verb, _, _ = text[1:].partition(" ")
    if verb == "raise" or (verb == "raise-once" and first):
        raise RuntimeError(f"poison in {source.name}")
    if verb == "exit" or (verb == "exit-once" and first):
        os._exit(7)
    if verb == "refuse":
        raise UnmemorizeError("cannot be used")
    if verb == "hang" or (verb == "hang-once" and first):
        time.sleep(3600)
    if verb == "wait":
        await_file(source.with_suffix(".go"))
    if verb == "uncounted":
        Outcome((), rows_in=3, rows_out=1, rejected={"long": 1})


def tries_of(run: Path, name: str) -> int:
    """How often a misbehaving part was tried."""
    return len((run.parent / "texts" / f"{name}.tries").read_text().splitlines())


def await_file(path: Path, seconds: float = 60) -> None:
    """Wait until `path` exists."""
    await_true(path.exists, seconds)


def await_true(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until `condition()`; raise where it takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.02)


def execute(
    run: Path,
    stages: tuple[Stage, ...] = STAGES,
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    **overrides: object,
) -> Summary:
    """Run toy stages in this process."""
    context = context_of(run, **overrides)
    return run_stages(stages, context, options or Options(), progress or SilentProgress())


def tree(run: Path, *, swept: bool = True) -> dict[str, bytes]:
    """Every file of a run folder with its bytes, but for times and caches.

    Raises ValueError for temporary files, unless `swept` is false: those are left out then.
    """
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    names = {path.relative_to(run).as_posix(): path for path in files}
    leftovers = [name for name in names if TEMPORARY_PREFIX in name]
    if leftovers and swept:
        raise ValueError(f"left behind: {leftovers}")
    left_out = ACCOUNTS.union(leftovers)
    kept = {n: p for n, p in names.items() if not {n, n.split("/")[0]} & left_out}
    return {name: path.read_bytes() for name, path in kept.items()}


def stamps(run: Path) -> dict[str, tuple[int, int]]:
    """Modification time and inode of every file that `tree` shows."""
    stats = {name: (run / name).stat() for name in tree(run)}
    return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in stats.items()}


def receipt_of(run: Path, stage: str, part: str) -> dict:
    """A receipt as JSON."""
    return json.loads((run / "receipts" / stage / f"{part}.json").read_text())


# --- child processes -----------------------------------------------------------------------------


def spawn_command(run: Path, stages: tuple[Stage, ...] = STAGES, **overrides: object):
    """A command in a child process of its own group, with a command's exit codes."""
    return _child(_command, run, stages, overrides)


def spawn_doomed(point: int, run: Path, options: Options, **overrides: object):
    """A run that kills itself before its `point`-th change of the file system."""
    return _child(_doomed, point, run, options, overrides)


def _child(target: Callable[..., None], *arguments: object):
    # forked from a server that has imported torch already and has no threads of a test's
    method = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # the server's
    method.set_forkserver_preload(["toy_stages"])
    process = method.Process(target=target, args=arguments)
    process.start()
    return process


def _command(run: Path, stages: tuple[Stage, ...], overrides: dict[str, object]) -> None:
    os.setsid()
    try:
        code = execute(run, stages, **overrides).exit_code(0.05)
    except KeyboardInterrupt:
        code = 130
    except UnmemorizeError as error:
        code = error.exit_code
    sys.exit(code)


def _doomed(point: int, run: Path, options: Options, overrides: dict[str, object]) -> None:
    die_at(point, run)
    execute(run, options=options, **overrides)


def die_at(point: int, folder: Path) -> None:
    """SIGKILL this process before the `point`-th write, flush, rename or removal in `folder`.

    A flush that is not reached leaves a torn file: half of what was written.
    """
    reached = 0
    root = str(folder)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    changes = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}

    def reach() -> bool:
        nonlocal reached
        reached += 1
        return reached == point

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & writing
        if not opened and event not in changes:
            return
        inside = str(arguments[0]).startswith(root) or event == "os.remove"  # rmtree: relative
        if inside and reach():
            die()

    flush = os.fsync

    def fsync(descriptor: int) -> None:
        if reach():
            path = f"/proc/self/fd/{descriptor}"
            if Path(path).is_file():
                os.truncate(path, Path(path).stat().st_size // 2)
            die()
        flush(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


def listening(process: psutil.Process) -> set[str]:
    """Addresses on which a process and its descendants accept connections."""
    addresses = set()
    for member in [process, *process.children(recursive=True)]:
        try:
            connections = member.net_connections(kind="inet")
        except psutil.NoSuchProcess:
            continue
        addresses |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return addresses


# --- a cluster of the user's ---------------------------------------------------------------------


def run_where(part: Part, context: Context) -> Outcome:
    """Write down the worker that runs the part, its process, and from when to when."""
    started = time.time()
    time.sleep(0.3)
    row = [get_worker().name, os.getpid(), started, time.time()]
    output = f"where/{part.name}.json"
    write_bytes(context.path(output), json.dumps(row).encode())
    return Outcome((output,), 1, 1)


WHERE = Stage("where", 1, (), plan_count, run_where)
ON_DEVICE = dataclasses.replace(WHERE, name="device", on_device=True)


@contextmanager
def user_cluster(folder: Path, *workers: Sequence[str]) -> Iterator[tuple[str, subprocess.Popen]]:
    """`dask scheduler` and `dask worker`s with these options; yields address and scheduler."""
    path = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"PYTHONPATH": path}
    started: list[subprocess.Popen] = []

    def start(tool: str, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{tool}", *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, env=environment, cwd=folder, **quiet))
        return started[-1]

    about = folder / "scheduler.json"
    loopback = ("--host", "127.0.0.1")
    scheduler = start(
        "scheduler", *loopback, "--port", "0", "--no-dashboard", "--scheduler-file", str(about)
    )
    try:
        await_file(about)
        address = json.loads(about.read_text())["address"]
        for options in workers:
            start("worker", address, *loopback, "--no-dashboard", *options)
        with Client(address, set_as_default=False) as client:
            await_true(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == len(workers))
        yield address, scheduler
    finally:
        for process in started[1:]:
            process.terminate()
        for process in [*started[1:], scheduler]:  # workers leave while there is one to tell
            try:
                process.wait(5 if process is not scheduler else 0)
            except subprocess.TimeoutExpired:  # a part still hangs in it
                process.kill()
                process.wait()
