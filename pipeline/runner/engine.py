"""Stages in order: plan, skip what is done, run the rest, write receipts, count rows.

The driver holds receipts and counts, never data.
"""

import fcntl
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from pipeline.errors import OutputExists, PartFailed, UsageError
from pipeline.io.atomic import remove, sweep, write_bytes
from pipeline.io.digest import DigestCache
from pipeline.runner import receipt as receipts
from pipeline.runner.part import Context, Part, Stage
from pipeline.runner.progress import Progress
from pipeline.runner.receipt import Receipt
from pipeline.runner.serial import SerialExecutor
from pipeline.runner.work import Done, Executor, Failure, Result, full_disk_named

NOT_DOWNLOADED = "not_downloaded"
_ROUND = re.compile(r"-\d+$")
EXPECTED = {
    NOT_DOWNLOADED,
    "duplicate",
    "contaminated",
    "featureless",
    "not_the_same",
    "no_caption",
    "in_training_set",
    "repeated",
    "repeated_caption",
}
"""Reasons that are a stage's purpose or the data set's past, and never count against a run."""


@dataclass(frozen=True)
class Options:
    """How much of a run is done again, and until when: `stop_at`, by the monotonic clock."""

    rebuild: bool = False
    rebuild_from: str | None = None
    verify_inputs: bool = False
    stop_at: float | None = None

    def is_late(self) -> bool:
        """Whether no more part may begin."""
        return self.stop_at is not None and time.monotonic() >= self.stop_at


@dataclass
class Summary:
    """What a run did, by stage."""

    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    rejected: dict[str, Mapping[str, int]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    interrupted: bool = False
    out_of_time: bool = False

    def exit_code(self, max_rejected: float) -> int:
        """The contract's code: 130 interrupted, 3 incomplete, 2 too much rejected, 0 done."""
        if self.interrupted and not self.out_of_time:
            return 130
        if self.failed or self.out_of_time:
            return 3
        return 2 if self.over_limit(max_rejected) else 0

    def absorb(self, name: str, other: "Summary") -> None:
        """Count another run, made for this one, under its name."""
        self.rows |= {f"{name} {stage}": rows for stage, rows in other.rows.items()}
        self.rejected |= {f"{name} {stage}": counts for stage, counts in other.rejected.items()}
        self.failed += [f"{name} {part}" for part in other.failed]
        self.interrupted |= other.interrupted
        self.out_of_time |= other.out_of_time

    def over_limit(self, max_rejected: float) -> list[str]:
        """Stages that rejected a larger share, expected reasons aside; rounds count together."""
        counted: Counter[str] = Counter()
        rejected: Counter[str] = Counter()
        for stage, (rows_in, _) in self.rows.items():
            counts, name = self.rejected[stage], _ROUND.sub("", stage)
            expected = sum(counts.get(reason, 0) for reason in EXPECTED)
            counted[name] += rows_in - expected
            rejected[name] += sum(counts.values()) - expected
        return [name for name in counted if rejected[name] > max_rejected * counted[name]]


def run_stages(
    stages: Sequence[Stage], context: Context, options: Options, progress: Progress
) -> Summary:
    """Run `stages` in order in a locked run folder.

    The first SIGINT lets running parts finish, and so does the time that `options` name; a second
    SIGINT stops at once. Raises OutputExists
    where the folder is in use, PartFailed where a stage that later ones need is incomplete.
    """
    summary = Summary()
    context.run.mkdir(parents=True, exist_ok=True)
    with (
        full_disk_named(context.run),
        _lock(context.run),
        _swept(context.run),
        _interruptible() as asked,
        _executor(context) as executor,
    ):
        digests = DigestCache(
            context.run / receipts.FOLDER / "digests.json", verify=options.verify_inputs
        )
        rebuild = options.rebuild
        for stage in stages:
            rebuild |= stage.name == options.rebuild_from
            run = _StageRun(stage, context, digests, rebuild, progress)
            run.execute(executor, lambda: asked() or options.is_late(), summary)
            digests.save()
            if summary.interrupted:
                summary.out_of_time = not asked()
                break
    return summary


class _StageRun:
    def __init__(
        self,
        stage: Stage,
        context: Context,
        digests: DigestCache,
        rebuild: bool,
        progress: Progress,
    ) -> None:
        self.stage, self.context, self.digests = stage, context, digests
        self.rebuild, self.progress = rebuild, progress

    def execute(self, executor: Executor, stopping: Callable[[], bool], summary: Summary) -> None:
        parts = self._plan()
        fields: dict[str, Mapping[str, object]] = {}
        done: list[Receipt] = []
        todo: list[Part] = []
        for part in parts:
            fields[part.name] = receipts.fingerprint_fields(
                self.stage, part, self.context, self.digests
            )
            kept = self._reusable(part, fields[part.name])
            done += [kept] if kept else []
            todo += [] if kept else [part]
        self._drop_orphans(fields, done)
        self.progress.start(self.stage.name, len(parts), len(done))
        started = time.monotonic()
        failed: list[str] = []
        try:
            for result in executor.run(self.stage, todo, self.context, stopping):
                record = self._record(result, fields[result.part.name])
                done += [record] if record else []
                failed += [] if record else [f"{self.stage.name}/{result.part.name}"]
                self.progress.advance(result.part.name, failed=record is None)
        finally:  # a stage that is cut short is shown as ended, too
            self._close(done, failed, len(todo), time.monotonic() - started, summary)
        summary.interrupted = len(done) + len(failed) < len(parts)
        needed = not self.stage.tolerant or not done  # tolerant of a few, not of all
        if failed and needed and not summary.interrupted:
            raise PartFailed(
                f"{failed[0]} failed ({len(failed)} in all); `unmemorize failed "
                f"{self.context.run}` shows why, and the same command tries again"
            )

    def _plan(self) -> list[Part]:
        parts = self.stage.plan(self.context)
        names: set[str] = set()
        for part in parts:
            if part.name in names:  # one would overwrite the other
                raise UsageError(
                    f"{self.stage.name}: two parts are named {part.name!r}; rename one input"
                )
            names.add(part.name)
        return parts

    def _reusable(self, part: Part, fields: Mapping[str, object]) -> Receipt | None:
        found = receipts.read_receipt(
            receipts.receipt_path(self.context.run, self.stage.name, part.name)
        )
        if found is None:
            return None
        if found.fields != fields and not self.rebuild:
            why = receipts.require_rebuildable(self.stage.name, part.name, found, fields)
            self.progress.note(f"{self.stage.name}/{part.name}: {why}; redone")
        if found.fields != fields:
            return None
        if receipts.outputs_intact(found, self.context, self.digests):
            return found
        self.progress.note(f"{self.stage.name}/{part.name}: an output is gone or changed; redone")
        return None

    def _record(self, result: Result, fields: Mapping[str, object]) -> Receipt | None:
        if isinstance(result.result, Failure):
            self._quarantine(result.part, result.result)
            return None
        done: Done = result.result
        record = receipts.make_receipt(
            self.stage, result.part, fields, done.outcome, dict(done.outputs)
        )
        path = receipts.receipt_path(self.context.run, record.stage, record.part)
        self._remove_outputs(receipts.read_receipt(path), keep=record.outputs)
        receipts.write_receipt(self.context.run, record)
        for note in record.notes:
            self.progress.note(f"{self.stage.name}/{result.part.name}: {note}")
        return record

    def _quarantine(self, part: Part, reason: Failure) -> None:
        path = receipts.receipt_path(self.context.run, self.stage.name, part.name)
        self._remove_outputs(receipts.read_receipt(path), keep=())  # later stages may list folders
        path.unlink(missing_ok=True)
        values = {"error": reason.message, "attempts": reason.attempts, "log": reason.log}
        write_bytes(path.with_suffix(receipts.FAILED), json.dumps(values, indent=1).encode())
        self.progress.note(f"{self.stage.name}/{part.name} failed: {reason.message}")

    def _drop_orphans(self, planned: Iterable[str], done: Sequence[Receipt]) -> None:
        """Remove parts of an earlier plan, so that no later stage reads their outputs."""
        kept = {output for receipt in done for output in receipt.outputs}
        folder = self.context.run / receipts.FOLDER / self.stage.name
        for path in sorted(folder.glob("*.json")):
            name = path.name.removesuffix(receipts.FAILED).removesuffix(".json")
            if name in planned:
                continue
            self._remove_outputs(receipts.read_receipt(path), kept)
            path.unlink()

    def _remove_outputs(self, old: Receipt | None, keep: Iterable[str]) -> None:
        root = self.context.run.resolve()
        for output in set(old.outputs if old else ()) - set(keep):
            target = self.context.path(output).resolve()
            if target.is_relative_to(root) and target != root:  # a receipt is input like any other
                remove(target)

    def _close(
        self, done: list[Receipt], failed: list[str], ran: int, seconds: float, summary: Summary
    ) -> None:
        rejected: dict[str, int] = {}
        for receipt in done:
            for reason, count in receipt.rejected.items():
                rejected[reason] = rejected.get(reason, 0) + count
        rows = (sum(r.rows_in for r in done), sum(r.rows_out for r in done))
        summary.rows[self.stage.name] = rows
        summary.rejected[self.stage.name] = rejected
        summary.failed += failed
        self.progress.finish(self.stage.name, rows, rejected, seconds)
        if ran:
            _log_metrics(self.context.run, self.stage.name, ran, rows, rejected, seconds)


def _executor(context: Context) -> AbstractContextManager[Executor]:
    runner = context.config.runner
    if runner.scheduler is None and runner.workers == 1 and not runner.worker_resources:
        return nullcontext(SerialExecutor())
    from pipeline.runner.cluster import ClusterExecutor  # noqa: PLC0415  Dask, where it is wanted

    return ClusterExecutor(runner)


@contextmanager
def _lock(run: Path) -> Iterator[None]:
    with (run / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputExists(f"{run}: another command is running in this folder") from error
        yield


@contextmanager
def _swept(run: Path) -> Iterator[None]:
    """Remove what killed commands left, and then what workers left that died in this one."""
    sweep(run)
    try:
        yield
    finally:
        sweep(run)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    asked: list[int] = []

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, previous)


def _log_metrics(
    run: Path,
    stage: str,
    parts: int,
    rows: tuple[int, int],
    rejected: Mapping[str, int],
    seconds: float,
) -> None:
    """Append times, which differ from run to run and so stay out of receipts."""
    line = {
        "stage": stage,
        "parts": parts,
        "rows_in": rows[0],
        "rows_out": rows[1],
        "rejected": dict(rejected),
        "seconds": round(seconds, 2),
    }
    path = run / "logs" / "metrics.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as handle:
        handle.write(json.dumps(line) + "\n")
