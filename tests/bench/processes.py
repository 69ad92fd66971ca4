"""A command timed as a whole, with the memory of all its processes together."""

import contextlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_EVERY = 0.05  # seconds
_SHOWN = 2000  # characters


@dataclass(frozen=True)
class Finished:
    """Exit status, wall seconds with the start of the process, the most bytes at one time, and the
    ends of what was written to stdout and stderr.

    Memory is the sum of resident sets over the process and its descendants, looked at twenty times
    a second: pages that they share count in each.
    """

    status: int
    seconds: float
    peak: int
    out: str
    err: str

    @property
    def why(self) -> str:
        """The last line that the command wrote, to say why it failed."""
        text = self.err if self.err.strip() else self.out
        lines = [line.strip(" │╭╮╰╯─") for line in text.splitlines()]
        return next((line[:200] for line in reversed(lines) if line), f"exit status {self.status}")


def watch(command: Sequence[str], environment: Mapping[str, str]) -> Finished:
    """Run to the end. An interrupt ends the command and what it started."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=dict(environment))
        with _polled(process.pid) as seen:
            try:
                status = process.wait()
            except BaseException:
                _end(process)
                raise
            spent = time.perf_counter() - start
        texts = []
        for stream in (out, err):
            stream.seek(max(0, stream.seek(0, 2) - _SHOWN))
            texts.append(stream.read().decode(errors="replace"))
    return Finished(status, spent, seen[0], *texts)


@contextlib.contextmanager
def _polled(pid: int) -> Iterator[list[int]]:
    seen, stop = [0], threading.Event()

    def poll() -> None:
        while not stop.wait(_EVERY):
            seen[0] = max(seen[0], resident(pid))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def resident(pid: int) -> int:
    """Bytes resident now, summed over a process and its descendants; 0 once it has ended."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for member in family:
        with contextlib.suppress(psutil.Error):
            total += member.memory_info().rss
    return total


def high_water() -> int:
    """The most bytes that this process has had resident; 0 where the system does not say.

    Not ru_maxrss, which on Linux starts at that of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    process.kill()
    process.wait()
