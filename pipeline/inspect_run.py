"""Looking at a run, or at a configuration, without running anything."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

from pipeline.config import RunConfig, joined_encoders
from pipeline.cost import Job, cost
from pipeline.demo.plant import planned_rows
from pipeline.encoders import metric_of
from pipeline.errors import MissingInput
from pipeline.io.remote import is_remote, list_shards
from pipeline.io.runjson import NAME
from pipeline.io.shards import find_shards
from pipeline.io.vectors import count_vectors, find_vector_files
from pipeline.registry import IN_ORDER
from pipeline.runner.receipt import FAILED, FOLDER, read_receipts
from pipeline.stages.scan import count_rows
from pipeline.terminal import printable

_DIMENSIONS = {"lite0": 1280, "pdq": 256, "pixels": 768, "sscd": 512, "open_clip": 768}
_OTHER_DIMENSION = 1024


class _Failed(BaseModel):
    """What the runner writes of a part that failed."""

    error: str
    attempts: int
    log: str


def status_table(run: Path) -> Table:
    """Parts done and failed, rows in and out, rejected by reason; a row a stage that began."""
    _require_run(run)
    table = Table("stage", "done", "failed", "rows in", "rows out", "rejected", title=str(run))
    for stage in IN_ORDER:
        receipts = read_receipts(run, stage.name)
        failed = len(list((run / FOLDER / stage.name).glob(f"*{FAILED}")))
        if not receipts and not failed:
            continue
        reasons: dict[str, int] = {}
        for receipt in receipts:
            for reason, count in receipt.rejected.items():
                reasons[reason] = reasons.get(reason, 0) + count
        table.add_row(
            stage.name,
            str(len(receipts)),
            str(failed) if failed else "",
            str(sum(receipt.rows_in for receipt in receipts)),
            str(sum(receipt.rows_out for receipt in receipts)),
            escape(", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))),
        )
    return table


def failures(run: Path) -> Iterator[str]:
    """The logs of failed parts, those of its evaluation sets too, or a line that there are none."""
    _require_run(run)
    folders = [run, *sorted(run.glob("against/*"))]
    paths = [p for folder in folders for p in sorted((folder / FOLDER).glob(f"*/*{FAILED}"))]
    if not paths:
        yield "no part failed"
    for path in paths:
        place = path.parents[2].relative_to(run) / path.parent.name
        name = f"{place}/{path.name.removesuffix(FAILED)}"
        try:
            record = _Failed.model_validate_json(path.read_bytes())
        except ValueError:
            yield f"{name}: failed, but {path} is damaged; run again to see why"
            continue
        yield f"{name}: {printable(record.error)}"
        yield f"  after {record.attempts} attempts"
        for line in record.log.splitlines():
            yield "  " + printable(line)


def plan_table(config: RunConfig) -> Table:
    """What a run of this configuration would read, hold, write and compute, as upper bounds."""
    table = Table("what", "how much", title="plan")
    rows = 0
    if config.dataset.embeddings:
        files = find_vector_files(config.dataset.shards)
        rows = sum(count_vectors(file) for file in files)
        rows = min(rows, config.limit or rows)
        size = sum(file.vectors.stat().st_size for file in files)
        table.add_row("files of vectors", f"{len(files)}, {_bytes(size)}")
    elif any(map(is_remote, config.dataset.shards)):
        size = sum(f.size for s in list_shards(list(config.dataset.shards)) for f in s.files)
        table.add_row("to fetch, and then on disk", _bytes(size))
    elif config.dataset.shards:
        shards = find_shards(config.dataset.shards)
        rows = sum(count_rows(shard) for shard in shards)
        rows = min(rows, config.limit or rows)
        size = sum(shard.path.stat().st_size for shard in shards)
        table.add_row("shards", f"{len(shards)}, {_bytes(size)}")
        table.add_row("deduplicated shards on disk, at most", _bytes(size))
    elif not config.stages:  # all of them, the demo's own first
        table.add_row("shards", "the demo's, planted by the run")
        rows = planned_rows(config.demo.copies, config.demo.pictures_per_level)
    if rows:
        table.add_row("rows", f"{rows:,}")
    for name, spec in config.embed.encoders.items():
        dimension = _DIMENSIONS.get(spec.kind, _OTHER_DIMENSION)
        stored = rows * (dimension // 8 if metric_of(spec) == "hamming" else 2 * dimension)
        held = rows * (dimension // 8 if metric_of(spec) == "hamming" else 4 * dimension)
        table.add_row(
            f"{name}: vectors on disk, index in memory", f"{_bytes(stored)}, {_bytes(held)}"
        )
    if rows:
        _add_joins(table, config, rows)
    prompts = config.prompts.max_groups * config.prompts.max_captions_per_group
    prompts += config.prompts.controls
    screened = 2 * config.screen.seeds * (config.screen.steps + config.screen.late_step)
    drawn = 2 * config.generate.per_prompt * config.generate.steps
    table.add_row("captions, at most", f"{prompts:,}")
    table.add_row("UNet forwards: screen, generate", f"{prompts * screened:,}, {prompts * drawn:,}")
    table.add_row(
        "workers, threads a part", f"{config.runner.workers}, {config.runner.threads_per_part}"
    )
    return table


def _add_joins(table: Table, config: RunConfig, rows: int) -> None:
    """What the search for near-duplicates holds and takes, by pipeline.cost."""
    hours = {"scan": 0.0, "embed": 0.0, "pairs": 0.0}
    for name in joined_encoders(config):
        spec = config.embed.encoders[name]
        job = Job(
            rows,
            d=_DIMENSIONS.get(spec.kind, _OTHER_DIMENSION),
            cells=config.pairs.cells,
            probes=config.pairs.probes,
            rows_per_part=config.pairs.rows_per_part,
            exact_up_to=config.pairs.exact_up_to,
        )
        found, by_code = cost(job), metric_of(spec) == "hamming"
        taken = found.hours()
        hours |= {stage: taken[stage] for stage in ("scan", "embed")}
        hours["pairs"] += sum(taken.get(stage, 0) for stage in _joining(by_code))
        if found.cells and not by_code:
            table.add_row(
                f"{name}: cells, on disk, memory of the part that fills them",
                f"{found.cells:,}, {_bytes(found.disk['cells'])}, {_bytes(found.memory['cells'])}",
            )
    if config.dataset.embeddings:
        hours |= {"scan": 0.0, "embed": 0.0}
    shown = ", ".join(f"{name} {count:,.2g}" for name, count in hours.items() if count)
    table.add_row("hours of one core like ours, roughly", shown)


def _joining(by_code: bool) -> tuple[str, ...]:
    return ("pdq",) if by_code else ("cells", "join")


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _require_run(run: Path) -> None:
    if not (run / NAME).is_file():
        raise MissingInput(f"{run}: no {NAME}; not the folder of a run")
