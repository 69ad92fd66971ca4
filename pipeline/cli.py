"""The commands. Each builds a configuration, runs a job, and says what came of it.

    unmemorize demo      a planted training set, a model trained on it, and every stage below
    unmemorize run       every configured stage, in order
    unmemorize dedup     scan, embed, index, pairs, groups, export
    unmemorize audit     prompts, screen, generate, match, verdict, report
    unmemorize match     is this picture too close to the training set?
    unmemorize erase     fine-tune a model away from what was found
    unmemorize verify    audit it again
    unmemorize calibrate thresholds for a stated precision, from edits of your own pictures
    unmemorize report | status | failed | plan | configs

Exit codes: 0 done; 1 usage or configuration; 2 more rejected than allowed; 3 incomplete, run again;
4 a --fail-on was met; 130 interrupted.
"""

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from indexes import VectorError
from pipeline import followups, inspect_run, registry
from pipeline.audit import WITHOUT_TRAIN, Asked, audit_settings
from pipeline.calibration.audit import calibrate_audit
from pipeline.calibration.command import calibration_settings, thresholds_table
from pipeline.calibration.dedup import Plan, parse_same
from pipeline.calibration.dedup import calibrate_dedup as measure
from pipeline.config import COLUMN, QUALITIES, RunConfig, load_config, make_config
from pipeline.deduplication import dedup_settings, threads_of
from pipeline.detection.errors import MeasureError
from pipeline.errors import UnmemorizeError
from pipeline.io.atomic import is_disk_full
from pipeline.io.runjson import read_run_config
from pipeline.jobs import Job, choose_stages, run_job
from pipeline.matching import match_pictures
from pipeline.runner.engine import Options, Summary
from pipeline.runner.part import Stage
from pipeline.shipped import config_names, config_path, copy_config
from pipeline.summary import failed_on, print_summary
from pipeline.terminal import printable

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find what a diffusion model memorized, remove the causes, and prove it.",
)
configs = typer.Typer(no_args_is_help=True, help="List, print, copy and check configurations.")
app.add_typer(configs, name="configs")
calibrate = typer.Typer(no_args_is_help=True, help="Measure thresholds on data of your own.")
app.add_typer(calibrate, name="calibrate")

Out = Annotated[Path, typer.Option("--out", help="The run folder; an existing one is continued.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="section.field=value, over the configuration.")
]
Workers = Annotated[int | None, typer.Option(help="Local worker processes.", min=1)]
Threads = Annotated[int | None, typer.Option(help="Threads of each worker.", min=1)]
Scheduler = Annotated[str | None, typer.Option(help="Address of a Dask scheduler of yours.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")]
Limit = Annotated[int | None, typer.Option(help="A trial on the first N rows.", min=1)]
MaxMinutes = Annotated[
    float | None,
    typer.Option(help="Begin no part after so many minutes; the same command goes on.", min=0),
]
Rebuild = Annotated[bool, typer.Option("--rebuild", help="Redo parts whose settings changed.")]
VerifyInputs = Annotated[
    bool, typer.Option("--verify-inputs", help="Read every input again on resume.")
]
Redact = Annotated[bool, typer.Option("--redact", help="Hashes and blurred pictures in reports.")]
FailOn = Annotated[str | None, typer.Option(help="Exit with 4 where one of these was found.")]


AUDIT_ROUNDS = (2, 4, 8)
"""After so many drawings `audit` asks whether a caption is still open."""
AUDIT_SCREEN = {"seeds": 1, "steps": 1}
"""A pair of forwards a caption, and another for the late step; drawing decides."""


class _Finished(Exception):
    """Carries the exit code through the command-line library, which has codes of its own."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    model: Annotated[str | None, typer.Option(help="A saved model instead of training.")] = None,
    workers: Workers = None,
    set_: Sets = None,
    rebuild: Rebuild = False,
    verify_inputs: VerifyInputs = False,
) -> None:
    """Plant duplicates, train a model on them, and find, match and erase what it memorized."""
    overrides = _overrides(set_, **{"model.path": model, "runner.workers": workers})
    config = load_config(config_path("demo"), overrides)
    _finish(_job(config, out, registry.IN_ORDER, rebuild, verify_inputs))


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A YAML file; `configs ls` shows ours.")],
    out: Out,
    set_: Sets = None,
    first: Annotated[str | None, typer.Option("--from", help="Redo from this stage on.")] = None,
    until: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    device: Device = None,
    dtype: Dtype = None,
    limit: Limit = None,
    max_minutes: MaxMinutes = None,
    rebuild: Rebuild = False,
    verify_inputs: VerifyInputs = False,
) -> None:
    """Run every configured stage in order, resuming what is done."""
    shared = _shared(workers, scheduler, device, dtype, limit)
    resolved = load_config(config, _overrides(set_, **shared))
    chosen = choose_stages(resolved.stages, first=first, last=until)
    stop_at = _stop_at(max_minutes)
    options = Options(rebuild, first, verify_inputs, stop_at)
    _finish(Job(resolved, out, chosen, options))


@app.command()
def dedup(
    shards: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Tars: paths, globs, braces, folders. Or vectors: clip-retrieval's folders, "
            "Parquet with a column embedding or embeddings.",
        ),
    ],
    out: Out,
    encoder: Annotated[
        str | None,
        typer.Option(help="The joined encoder: lite0, lite0-copy or pdq; others by config."),
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Least cosine of a pair.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Thresholds: the file of `calibrate dedup`.")
    ] = None,
    whitening: Annotated[
        Path | None, typer.Option(help="lite0-copy's weights, fitted by `calibrate dedup`.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Align more of the borderline pairs: slower, finds more."),
    ] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Drop pictures that this set holds too: shards, or a dedup run of it."),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(help="Keep the best by resolution, bytes, first, or a column of yours."),
    ] = None,
    onto: Annotated[
        Path | None,
        typer.Option(help="A dedup run to add these shards to: its groups and kept ones stay."),
    ] = None,
    set_: Sets = None,
    workers: Workers = None,
    threads: Threads = None,
    scheduler: Scheduler = None,
    device: Device = None,
    limit: Limit = None,
    max_minutes: MaxMinutes = None,
    rebuild: Rebuild = False,
    verify_inputs: VerifyInputs = False,
) -> None:
    """Deduplicate shards: groups, keep and drop lists, and the shards without the copies."""
    values = dedup_settings(
        shards,
        encoder,
        threshold=threshold,
        calibration=calibration,
        whitening=whitening,
        verify=verify,
        overrides=set_ or [],
    )
    values |= {"against": against or [], "onto": str(onto.resolve()) if onto else None}
    shared = _shared(workers, scheduler, device, None, limit)
    alone = workers is None and scheduler is None
    shared["runner.threads_per_part"] = threads or (threads_of(out) if alone else None)
    known = quality is None or quality in QUALITIES or quality.startswith(COLUMN)
    shared["groups.quality"] = quality if known else f"{COLUMN}{quality}"
    config = make_config(values, _overrides(set_, **shared))
    _finish(_job(config, out, registry.DEDUP, rebuild, verify_inputs, max_minutes))


@app.command()
def audit(
    out: Out,
    model: Annotated[str | None, typer.Option(help="A diffusers folder or hub id.")] = None,
    generations: Annotated[
        str | None,
        typer.Option(help="Pictures that another generator made: a folder, or webdataset tars."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The hub revision to pin.")] = None,
    lora: Annotated[str | None, typer.Option(help="PATH or PATH:SCALE, safetensors.")] = None,
    train: Annotated[Path | None, typer.Option(help="A dedup run of the training set.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Captions: CSV, JSONL, Parquet, text, or shards to take them from."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Were these memorized? A list of uids, urls, keys or picture files."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Thresholds of `calibrate audit`; gives confidences.")
    ] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="All drawings of every caption, for its rate.")
    ] = False,
    max_forwards: Annotated[
        int | None, typer.Option(help="Budget of UNet forwards; the likeliest first.", min=1)
    ] = None,
    set_: Sets = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    device: Device = None,
    dtype: Dtype = None,
    limit: Limit = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile it; CUDA only.")] = False,
    max_minutes: MaxMinutes = None,
    redact: Redact = False,
    fail_on: FailOn = None,
    rebuild: Rebuild = False,
    verify_inputs: VerifyInputs = False,
) -> None:
    """Audit a model: which captions reproduce which training images?"""
    asked = Asked(model=model, generations=generations, train=train, prompts=prompts, images=images)
    if train is None:
        _say(WITHOUT_TRAIN)
    values = audit_settings(asked) | {"report": {"redact": redact}}
    values["model"] |= {"revision": revision, "lora": lora, "compile": compiled}
    values["generate"] |= {"rounds": () if exhaustive else AUDIT_ROUNDS}
    values["screen"] = AUDIT_SCREEN
    values["verdict"] = {"calibration": str(calibration.resolve()) if calibration else None}
    shared = _shared(workers, scheduler, device, dtype, limit)
    shared["generate.max_forwards"] = max_forwards
    config = make_config(values, _overrides(set_, **shared))
    stages = (*registry.AUDIT, *registry.REPORT)
    job = _job(config, out, stages, rebuild, verify_inputs, max_minutes)
    _finish(job, fail_on)


@app.command()
def match(
    images: Annotated[list[Path], typer.Argument(help="Pictures.")],
    train: Annotated[Path, typer.Option(help="A dedup run of the training set.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a picture.")] = False,
) -> None:
    """Is this picture too close to the training set? One line each."""
    for line in match_pictures(images, train, as_json=as_json):
        typer.echo(line)


@app.command()
def erase(
    model: Annotated[str, typer.Option(help="The model to edit; it is not changed.")],
    out: Out,
    findings: Annotated[
        Path | None, typer.Option(help="The audit run whose findings are erased.")
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option(help="Or a list: a caption a row, and a column image if there are pictures."),
    ] = None,
    concept: Annotated[
        list[str] | None, typer.Option(help="Or a caption; several by repeating.")
    ] = None,
    method: Annotated[str, typer.Option(help=f"{', '.join(followups.METHODS)}.")] = "esd-x",
    iterations: Annotated[int | None, typer.Option(help="The paper's 1000 by default.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="1e-5 by default.")] = None,
    batch: Annotated[int | None, typer.Option(help="Examples an iteration; 8.")] = None,
    set_: Sets = None,
    device: Device = None,
    rebuild: Rebuild = False,
) -> None:
    """Fine-tune a model away from what an audit found, or you name; writes a diffusers folder."""
    erased = followups.Erased(findings, targets, concept or ())
    training = {"iterations": iterations, "learning_rate": learning_rate, "batch": batch}
    values = followups.erase_settings(model, erased, method, **training)
    shared = _shared(None, None, device, None, None)
    config = make_config(values, _overrides(set_, **shared))
    _finish(_job(config, out, registry.ERASE, rebuild, verify_inputs=False))


@app.command()
def verify(
    model: Annotated[Path, typer.Option(help="The run folder of `erase`.")],
    base: Annotated[str, typer.Option(help="The model before.")],
    findings: Annotated[Path, typer.Option(help="The audit run.")],
    out: Out,
    oracle: Annotated[
        str | None, typer.Option(help="A model trained without the erased pictures.")
    ] = None,
    unseen: Annotated[
        list[str] | None,
        typer.Option(help="Shards of pictures that the model was never trained on."),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(followups.ATTACKS)}; several by repeating. With --oracle or --unseen "
            f"{' and '.join(followups.USUAL)}; budgets by --set verify.attacks."
        ),
    ] = None,
    set_: Sets = None,
    workers: Workers = None,
    device: Device = None,
    max_minutes: MaxMinutes = None,
    redact: Redact = False,
    fail_on: FailOn = None,
    rebuild: Rebuild = False,
) -> None:
    """Audit an erased model again, with other seeds and captions than it was erased with.

    Attacks try to bring the pictures back; they say "erased" only where they fare no better than
    on pictures that were never trained, or on a model that never saw these.
    """
    attacked = followups.Attacked(attack or (), oracle, unseen or ())
    values = followups.verify_settings(model, base, findings, attacked)
    values["report"] = {"redact": redact}
    shared = _shared(workers, None, device, None, None)
    config = make_config(values, _overrides(set_, **shared))
    stages = (*registry.VERIFY, *registry.REPORT)
    job = _job(config, out, stages, rebuild, verify_inputs=False, max_minutes=max_minutes)
    _finish(job, fail_on)


@app.command()
def report(run_folder: Path, redact: Redact = False) -> None:
    """Write the HTML report, figures, card and summary.json of a run."""
    config = read_run_config(run_folder)
    section = config.report.model_copy(update={"redact": redact or config.report.redact})
    config = config.model_copy(update={"report": section})
    _finish(_job(config, run_folder, registry.REPORT, rebuild=True, verify_inputs=False))


@app.command()
def status(run_folder: Path) -> None:
    """Show parts done, failed and rejected by reason."""
    Console().print(inspect_run.status_table(run_folder))


@app.command()
def failed(run_folder: Path) -> None:
    """Show why parts failed."""
    for line in inspect_run.failures(run_folder):
        typer.echo(line)


@app.command()
def plan(config: Path, set_: Sets = None) -> None:
    """Show what a configuration would do: rows, bytes, memory, disk, UNet forwards."""
    Console().print(inspect_run.plan_table(load_config(config, _overrides(set_))))


@calibrate.command("dedup")
def calibrate_dedup(
    shards: Annotated[list[str], typer.Argument(help="Tars: paths, globs, braces, folders.")],
    out: Annotated[Path, typer.Option(help="Where the thresholds go.")] = Path("calibration.json"),
    precision: Annotated[float, typer.Option(help="Of pairs, in the sample.")] = 0.999,
    sample: Annotated[int, typer.Option(help="Pictures drawn.", min=48)] = 1500,
    edited: Annotated[int, typer.Option(help="At most so many are edited.", min=1)] = 250,
    encoder: Annotated[str | None, typer.Option(help="lite0 or pdq alone.")] = None,
    whitening: Annotated[
        Path | None, typer.Option(help="Fit lite0-copy on half of the sample; its weights go here.")
    ] = None,
    same: Annotated[
        list[str] | None,
        typer.Option(
            help="SHARD/KEY,SHARD/KEY: two pictures that show the same, by your judgement."
        ),
    ] = None,
    set_: Sets = None,
    device: Device = None,
) -> None:
    """Find each encoder's threshold for a stated precision from edits of your own pictures."""
    values = calibration_settings(shards, encoder)
    config = make_config(values, _overrides(set_, **_shared(None, None, device, None, None)))
    found = measure(config, Plan(precision, sample, edited, whitening, parse_same(same or [])))
    for entry in found.encoders.values():
        for pair in entry.worst[:3]:
            typer.echo(f"{entry.name}: is it the same? --same {printable(f'{pair.a},{pair.b}')}")
    found.save(out)
    Console().print(thresholds_table(found))
    typer.echo(f"wrote {out}")


@calibrate.command("audit")
def calibrate_audit_run(
    run_folder: Annotated[Path, typer.Argument(help="An audit with control captions.")],
    out: Annotated[Path, typer.Option(help="Where the thresholds go.")] = Path("calibration.json"),
    rate: Annotated[
        float, typer.Option("--false-positive-rate", help="Of captions.", min=0, max=0.5)
    ] = 0.01,
) -> None:
    """Find the verdict's threshold for a stated false positive rate from control captions."""
    found = calibrate_audit(run_folder, rate)
    found.save(out)
    for entry in found.models.values():
        typer.echo(printable(entry.summary()))
    typer.echo(f"wrote {out}")


@configs.command("ls")
def configs_ls() -> None:
    """List the shipped configurations."""
    for name, purpose in config_names():
        typer.echo(f"{name:<26} {purpose}")


@configs.command("cat")
def configs_cat(name: str) -> None:
    """Print a shipped configuration."""
    typer.echo(config_path(name).read_text(), nl=False)


@configs.command("cp")
def configs_cp(name: str, target: Path) -> None:
    """Copy a shipped configuration for editing."""
    typer.echo(f"wrote {copy_config(name, target)}")


@configs.command("validate")
def configs_validate(config: Path, set_: Sets = None) -> None:
    """Check a configuration; every mistake is reported."""
    load_config(config, _overrides(set_))
    typer.echo(f"{config}: valid")


def main() -> NoReturn:
    """Run the command line; every error that is the user's ends in one line and a code."""
    os.environ.setdefault("WDS_SECURE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    gc.freeze()  # what was imported stays: no collection looks through it again
    try:
        app()
    except _Finished as finished:
        sys.exit(finished.code)
    except KeyboardInterrupt:
        _say("interrupted; run the same command to go on")
        sys.exit(130)
    except (VectorError, MeasureError) as error:
        _say(str(error))
        sys.exit(1)
    except UnmemorizeError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # one that names a file is about what was given; others are defects
        if not (error.filename or is_disk_full(error) or isinstance(error, PermissionError)):
            raise
        _say(f"{error.filename or 'disk'}: {error.strerror or error}")
        sys.exit(3 if is_disk_full(error) else 1)
    except SystemExit as left:  # the library's own code for a wrong option is 2
        sys.exit(1 if left.code == 2 else left.code)
    finally:
        gc.freeze()  # or the interpreter looks through all that torch made before it ends: seconds
    sys.exit(0)


def _job(
    config: RunConfig,
    out: Path,
    chosen: tuple[Stage, ...],
    rebuild: bool,
    verify_inputs: bool,
    max_minutes: float | None = None,
) -> Job:
    stop_at = _stop_at(max_minutes)
    options = Options(rebuild=rebuild, verify_inputs=verify_inputs, stop_at=stop_at)
    return Job(config, out, chosen, options)


def _stop_at(minutes: float | None) -> float | None:
    return None if minutes is None else time.monotonic() + 60 * minutes


def _finish(job: Job, fail_on: str | None = None) -> NoReturn:
    summary = run_job(job)
    print_summary(job.out)
    raise _Finished(_exit_code(job, summary, fail_on))


def _exit_code(job: Job, summary: Summary, fail_on: str | None) -> int:
    limit = job.config.runner.max_rejected
    code = summary.exit_code(limit)
    if summary.out_of_time:
        _say("--max-minutes have passed; what is done stays done, the same command goes on")
    if summary.failed:
        _say(f"{len(summary.failed)} parts failed; `unmemorize failed {job.out}` shows why")
    for stage in summary.over_limit(limit):
        _say(f"{stage}: more than {limit:.0%} of the rows were rejected; `unmemorize status`")
    if code == 0 and fail_on and (found := failed_on(job.out, fail_on)):
        _say(f"--fail-on: {found}")
        return 4
    return code


def _shared(
    workers: int | None,
    scheduler: str | None,
    device: str | None,
    dtype: str | None,
    limit: int | None,
) -> dict[str, Any]:
    return {
        "runner.workers": workers,
        "runner.scheduler": scheduler,
        "model.device": device,
        "model.dtype": dtype,
        "limit": limit,
    }


def _overrides(given: list[str] | None, **options: Any) -> list[str]:
    chosen = [f"{name}={json.dumps(value)}" for name, value in options.items() if value is not None]
    return [*chosen, *(given or [])]


def _say(text: str) -> None:
    plain = printable(text, keep="\n")
    Console(stderr=True).print(f"unmemorize: {escape(plain)}", highlight=False, soft_wrap=True)
