"""What a worker is given by `dask worker --preload`: it writes down every part that starts or ends.

Its host may also fail as soon as a part runs there: FAILURES are stages, each with how the first
host fails that is at a part of it. "killed" takes all its processes, "unplugged" its cable.
"""

import json
import os
import signal
import subprocess
from pathlib import Path

from distributed import Worker, WorkerPlugin

from pipeline.runner import sharing


class Witness(WorkerPlugin):
    """`log` is a file of this host; what has failed is kept beside it, for all hosts to see."""

    def __init__(self, log: Path, failures: dict[str, str]):
        self._log, self._failures = log, failures

    def transition(self, key: str, start: str, finish: str, **kwargs: object):
        with self._log.open("a") as handle:
            handle.write(f"{key} {finish}\n")
        for stage, how in self._failures.items():
            if finish == "executing" and key.startswith(stage):
                self._fail(stage, how, key)

    def _fail(self, stage: str, how: str, key: str):
        try:
            with self._log.with_name(f"{stage}.failed").open("x") as handle:
                handle.write(f"{self._log.stem} {key}")
        except FileExistsError:  # another host was first, and one is enough
            return
        if how == "killed":
            os.killpg(0, signal.SIGKILL)  # the nanny, too
        subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)


async def dask_setup(worker: Worker):
    """Called by Dask when the worker starts."""
    sharing.PATIENCE_S = float(os.environ["PATIENCE_S"])
    log = Path(os.environ["WITNESS_LOG"])
    log.touch()
    await worker.plugin_add(Witness(log, json.loads(os.environ["FAILURES"])), name="witness")
