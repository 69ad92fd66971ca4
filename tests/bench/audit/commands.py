"""Our command line, called as a user would, in a process of one thread."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.processes import Finished, watch

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


def run_cli(arguments: Sequence[str], out: Path) -> float:
    """Run `unmemorize ARGUMENTS --out OUT` to the end, continuing a killed run; its seconds.

    Raises RuntimeError with its last line where it fails.
    """
    return watch_cli(arguments, out).seconds


def watch_cli(
    arguments: Sequence[str], out: Path, program: Sequence[str] = ("pipeline",)
) -> Finished:
    """The same, with all that is known of the process; `program` is a module and what it takes."""
    command = [sys.executable, "-m", *program, *arguments, "--out", str(out)]
    done = watch(command, os.environ | _ENVIRONMENT)
    if done.status not in (0, 2):
        raise RuntimeError(f"unmemorize {arguments[0]}: exit {done.status}: {done.why}")
    return done
