"""One part, executed: the code that runs in this process or in a worker's."""

import random
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from indexes import VectorError
from pipeline.detection.errors import MeasureError
from pipeline.errors import DiskFull, ModelError, ResumeError, UnmemorizeError
from pipeline.ids import hash63
from pipeline.io.atomic import is_disk_full
from pipeline.io.digest import sha256_file
from pipeline.runner.memory import keep_memory
from pipeline.runner.part import Context, Outcome, Part, Stage

_ONE_AT_A_TIME = threading.Lock()  # seeds and thread counts belong to the process


@dataclass(frozen=True)
class Done:
    """What a part did, and the SHA-256 of each output."""

    outcome: Outcome
    outputs: dict[str, str]


@dataclass(frozen=True)
class Failure:
    """Why a part failed: one line for people, the traceback for the log."""

    message: str
    log: str
    attempts: int


@dataclass(frozen=True)
class Result:
    """A part with what became of it."""

    part: Part
    result: Done | Failure


class Executor(Protocol):
    """Runs parts in any order and yields each once, done or failed in every attempt."""

    def run(
        self,
        stage: Stage,
        parts: Sequence[Part],
        context: Context,
        stopping: Callable[[], bool],
    ) -> Iterator[Result]:
        """Run `parts`; once `stopping()` is true, start no more."""


def run_part(stage: Stage, part: Part, context: Context) -> Done:
    """Run one part with the configured number of threads, seeded by its name.

    Raises DiskFull before starting where less than the configured space is free.
    """
    config = context.config
    require_free(context.run, config.runner.min_free_gb)
    keep_memory()
    seed = hash63("part", config.seed, stage.name, part.name)
    with _ONE_AT_A_TIME, full_disk_named(context.run):
        random.seed(seed)  # Dask's threads in a worker draw from it, too: no part of ours may
        np.random.seed(seed % 2**32)  # libraries draw from the global states
        torch.manual_seed(seed)
        torch.set_num_threads(config.runner.threads_per_part)
        with threadpool_limits(config.runner.threads_per_part):
            outcome = stage.run(part, context)
        return Done(outcome, {name: sha256_file(context.path(name)) for name in outcome.outputs})


def require_free(folder: Path, gigabytes: float) -> None:
    """Raise DiskFull where less than `gigabytes` (10^9 bytes) are free under `folder`."""
    free = shutil.disk_usage(folder).free
    if free < gigabytes * 1e9:
        raise DiskFull(
            f"{folder}: {free / 1e9:.1f} GB free, {gigabytes:g} GB wanted before each part; "
            "free some and run again"
        )


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn whatever a library raises on a full disk into DiskFull.

    Where the error arises: the cause that tells it is lost on the way from a worker.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise DiskFull(f"{folder}: no room on the disk; free some and run again") from error
        raise


def is_fatal(error: BaseException) -> bool:
    """Whether no other attempt or part can help: a full disk, a changed run, an unusable model."""
    return isinstance(error, DiskFull | ResumeError | ModelError)


def failure(error: BaseException, attempts: int) -> Failure:
    """Describe the last error of a part."""
    known = isinstance(error, UnmemorizeError | VectorError | MeasureError)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    line = " ".join(message.split()) or type(error).__name__
    return Failure(line[:500], "".join(traceback.format_exception(error)), attempts)
