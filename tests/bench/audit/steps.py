"""Work that is done once: a folder is finished when it holds the facts that it was made from."""

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

FACTS = "facts.json"

Facts = Mapping[str, Any]
Build = Callable[[Path], None]


def once(folder: Path, facts: Facts, build: Build) -> bool:
    """Let `build` fill `folder`, unless it was filled from equal facts; was there work to do?

    A killed build leaves nothing at `folder`.
    """
    wanted = json.loads(json.dumps(facts))
    if made_from(folder) == wanted:
        return False
    partial = folder.with_name(f"{folder.name}.partial")
    for stale in (partial, folder):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    build(partial)
    (partial / FACTS).write_text(json.dumps(wanted, indent=1, sort_keys=True))
    partial.replace(folder)
    return True


def made_from(folder: Path) -> Any:
    """The facts of a finished folder; None for another."""
    try:
        return json.loads((folder / FACTS).read_text())
    except (OSError, ValueError):
        return None


Task = tuple[Callable[..., object], tuple[Any, ...]]


def run_all(tasks: Mapping[str, Task], needs: Mapping[str, set[str]], pool: Executor) -> None:
    """Run each task once those that it needs are done, as many at a time as `pool` takes.

    The first error ends the whole; what was done stays done.
    """
    order = TopologicalSorter({name: needs.get(name, set()) for name in tasks})
    order.prepare()
    running: dict[Future[object], str] = {}
    while order.is_active():
        for name in order.get_ready():
            function, arguments = tasks[name]
            running[pool.submit(function, *arguments)] = name
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            name = running.pop(future)
            future.result()
            print(f"done: {name}", flush=True)
            order.done(name)
