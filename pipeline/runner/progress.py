"""What a person sees while a run goes on: a live bar, or a plain line a minute."""

import threading
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from pipeline.terminal import printable

_PLAIN_EVERY_S = 60.0


class Progress(Protocol):
    """Told of stages and parts; decides alone what to show."""

    def start(self, stage: str, parts: int, done: int) -> None:
        """A stage begins with `done` of its `parts` already there."""

    def advance(self, part: str, *, failed: bool) -> None:
        """A part ended."""

    def note(self, text: str) -> None:
        """Something a person should know."""

    def finish(
        self, stage: str, rows: tuple[int, int], rejected: Mapping[str, int], seconds: float
    ) -> None:
        """A stage ended with rows (in, out)."""

    def close(self) -> None:
        """Nothing more comes."""


class ConsoleProgress:
    """A rich bar on a terminal; elsewhere a line when a stage ends, and one a minute between."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._parts = self._done = 0
        self._stage = ""
        self._ended = threading.Event()

    def start(self, stage: str, parts: int, done: int) -> None:
        """Show the stage."""
        self._stage, self._parts, self._done = stage, parts, done
        if self._console.is_terminal:
            columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn())
            self._bar = Bar(*columns, TimeElapsedColumn(), console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(stage, total=parts, completed=done)
        else:
            self._ended = threading.Event()
            threading.Thread(target=self._beat, args=(self._ended,), daemon=True).start()

    def advance(self, part: str, *, failed: bool) -> None:
        """Move the bar."""
        del part, failed
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._print(f"  {text}")

    def finish(
        self, stage: str, rows: tuple[int, int], rejected: Mapping[str, int], seconds: float
    ) -> None:
        """Print the stage's line: rows, rejected by reason, time."""
        self.close()
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
        out = f"{rows[1]} rows" if rows[0] == rows[1] else f"{rows[0]} rows in, {rows[1]} out"
        lost = f"; rejected: {counts}" if counts else ""
        self._print(f"{stage:<9} {out}{lost}  [{seconds:.1f} s]")

    def close(self) -> None:
        """Take the bar away, also where a stage ended in an error."""
        self._ended.set()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(_PLAIN_EVERY_S):
            self._print(f"{self._stage}: {self._done} of {self._parts} parts")

    def _print(self, text: str) -> None:
        self._console.print(Text(printable(text)), soft_wrap=True)


class SilentProgress:
    """Shows nothing; for libraries and tests. Notes are kept."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, stage: str, parts: int, done: int) -> None:
        """Nothing."""

    def advance(self, part: str, *, failed: bool) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Keep the note."""
        self.notes.append(text)

    def finish(
        self, stage: str, rows: tuple[int, int], rejected: Mapping[str, int], seconds: float
    ) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
