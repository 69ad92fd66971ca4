"""A job: a configuration, a run folder, and the stages it takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.errors import UsageError
from pipeline.io.runjson import write_run
from pipeline.registry import BY_NAME, IN_ORDER
from pipeline.runner.engine import Options, Summary, run_stages
from pipeline.runner.part import Context, Stage
from pipeline.runner.progress import ConsoleProgress, Progress


@dataclass(frozen=True)
class Job:
    """What is run, and how much of it anew."""

    config: RunConfig
    out: Path
    stages: tuple[Stage, ...]
    options: Options = field(default_factory=Options)


def choose_stages(
    names: Sequence[str], *, first: str | None = None, last: str | None = None
) -> tuple[Stage, ...]:
    """The named stages in the order of the data, from `first` to `last`.

    Raises UsageError for a name that is none of ours.
    """
    for name in (*names, first, last):
        if name is not None and name not in BY_NAME:
            raise UsageError(f"{name}: no such stage; there are {', '.join(BY_NAME)}")
    order = list(BY_NAME)
    start = order.index(first) if first else 0
    end = order.index(last) if last else len(order) - 1
    allowed = set(order[start : end + 1])
    return tuple(s for s in IN_ORDER if s.name in allowed and (not names or s.name in names))


def run_job(job: Job, progress: Progress | None = None) -> Summary:
    """Run a job in its folder; see run_stages for what it raises."""
    write_run(job.out, job.config)
    context = Context(job.out, job.config)
    shown = progress or ConsoleProgress()
    try:
        summary = run_stages(job.stages, context, job.options, shown)
    finally:
        shown.close()
    write_run(job.out, job.config)  # with what the run measured of itself
    return summary
