"""A job: a configuration, a run folder, and the stages it takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.encoders.text import require_text_encoder
from pipeline.errors import UsageError
from pipeline.io.runjson import write_run
from pipeline.registry import BY_NAME, EMBEDDED, IN_ORDER, PREPARING, fitting
from pipeline.runner.engine import Options, Summary, run_stages
from pipeline.runner.part import Context, Stage
from pipeline.runner.progress import ConsoleProgress, Progress
from pipeline.stages import against, captions
from pipeline.stages.evalsets import eval_sets, require_comparable


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
    """The named stages, and what prepares them, in the order of the data, from `first` to `last`.

    Raises UsageError for a name that is none of ours.
    """
    for name in (*names, first, last):
        if name is not None and name not in BY_NAME:
            raise UsageError(f"{name}: no such stage; there are {', '.join(BY_NAME)}")
    order = list(BY_NAME)
    start = order.index(first) if first else 0
    end = order.index(last) if last else len(order) - 1
    allowed = set(order[start : end + 1])
    wanted = {*names, "adopt", *(before for name in names for before in PREPARING.get(name, ()))}
    return tuple(s for s in IN_ORDER if s.name in allowed and (not names or s.name in wanted))


def run_job(job: Job, progress: Progress | None = None) -> Summary:
    """Run a job in its folder, after those for its evaluation sets; see run_stages for errors."""
    write_run(job.out, job.config)
    context = Context(job.out, job.config)
    shown = progress or ConsoleProgress()
    stages = fitting(job.stages, job.config)
    if captions.STAGE in stages:
        require_text_encoder(job.config)
    before = Summary()
    try:
        if against.STAGE in stages:
            before = _embed_eval_sets(job, context, shown)
        if before.interrupted:
            return before
        summary = run_stages(stages, context, job.options, shown)
    finally:
        shown.close()
    summary.absorb("against", before)
    write_run(job.out, job.config)  # with what the run measured of itself
    return summary


def _embed_eval_sets(job: Job, context: Context, progress: Progress) -> Summary:
    """Scan and embed the evaluation sets that are not runs yet, each in a run folder inside."""
    whole = Summary()
    for eval_set in eval_sets(context):
        if not eval_set.finished:
            dataset = job.config.dataset.model_copy(
                update={"name": eval_set.name, "shards": (eval_set.address,)}
            )
            own = {"dataset": dataset, "against": (), "limit": None, "onto": None}
            config = job.config.model_copy(update=own)
            write_run(eval_set.run, config)
            options = replace(job.options, rebuild_from=None)
            stages = fitting(EMBEDDED, config)
            done = run_stages(stages, Context(eval_set.run, config), options, progress)
            whole.absorb(eval_set.name, done)
            if done.interrupted:
                break
        require_comparable(eval_set, context)
    return whole
