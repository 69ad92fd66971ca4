"""The audit: which captions reproduce which training images, and how that grows with copies."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from pipeline.calibration.audit_record import read_audit_calibration, verdict_thresholds
from pipeline.config import Verdict as VerdictConfig
from pipeline.detection.intervals import upper_bound
from pipeline.detection.unconditional import rarefied
from pipeline.detection.verdict import HITS, Verdict
from pipeline.errors import UnmemorizeError
from pipeline.io import schemas
from pipeline.io.tables import read_parts, read_rows
from pipeline.report.bins import bin_label, bin_labels
from pipeline.report.facts import Audit, Extracted, Extraction, Finding, Point, Rate, Series
from pipeline.report.sources import Sources, count_rows
from pipeline.report.text import short_hash

Row = dict[str, Any]
SHOWN = tuple(str(verdict) for verdict in (*HITS, Verdict.UNDECIDED))
FINDINGS = "findings.parquet"
_PER = 1000
_VERDICTS = "verdicts.parquet"
_GENERATIONS = "generations/*.parquet"
_DISTANCES = ("similarity", "l2", "tiled_l2", "nearest_ratio")
_SAMPLING = ("scheduler", "num_inference_steps", "guidance_scale", "negative_prompt")


def read_findings(sources: Sources) -> list[Row]:
    """Rows of findings.parquet, captions hashed where the report is redacted."""
    path = sources.one(FINDINGS)
    rows = read_rows(path, schemas.FINDINGS) if path else []
    redact = sources.context.config.report.redact
    return [
        row | {"shown": short_hash(row["caption"]) if redact else row["caption"]} for row in rows
    ]


def audit(sources: Sources, findings: list[Row]) -> Audit | None:
    """What was asked and answered; None where no caption was judged."""
    if sources.one(FINDINGS) is None:
        return None
    config = sources.context.config
    drawn = read_parts(sources.find(_GENERATIONS), schemas.GENERATIONS).to_pylist()
    controls = [row for row in findings if row["role"] == "control"]
    fewest = min((row["n_generated"] for row in findings), default=0)
    shown = [row for row in findings if row["verdict"] in SHOWN]
    shown.sort(key=_interest)
    models = _known(drawn, "model_fingerprint")
    return Audit(
        sources=sources.labels(FINDINGS, _VERDICTS, _GENERATIONS),
        captions=len(findings),
        controls=len(controls),
        given=config.generate.folder is not None,
        generations=len(drawn),
        blank=sum(row["reason"] == "blank" for row in drawn),
        verdicts=_counts(findings),
        flagged_controls=Rate.of(_flagged(controls), len(controls)),
        calibration=tuple(sorted({row["calibration"] for row in findings})),
        thresholds=_thresholds(config.verdict, models),
        rounds=tuple(drawn.stop for drawn in config.generate.schedule),
        sampling=_sampling(drawn, redact=config.report.redact),
        unet_forwards=sum(row["n_unet_forwards"] for row in findings),
        model_fingerprints=models,
        findings=_with_best(sources, shown[: config.report.max_findings]),
        n_findings=len(shown),
        upper_bound_of_none=upper_bound(0, fewest) if fewest else None,
    )


def extracted(sources: Sources) -> Extracted | None:
    """The count of training pictures found; None where there was no training set to match."""
    path = sources.one("extracted.parquet")
    if path is None or sources.one("duplicates.parquet") is None:
        return None
    rows = read_rows(path, schemas.EXTRACTED)
    samples = count_rows(sources.find(_GENERATIONS))
    hits = Counter[int]()
    for row in rows:
        hits[row["group_id"]] += row["n_generations"]
    per = min(_PER, samples)
    return Extracted(
        sources=sources.labels("extracted.parquet"),
        pictures=len({row["group_id"] for row in rows}),
        images=len(rows),
        by_verdict=_counts(rows),
        generations=hits.total(),
        samples=Rate.of(hits.total(), samples),
        per=per,
        distinct=rarefied(sorted(hits.values()), samples, per),
        shown=_clearest(rows)[: sources.context.config.report.max_findings],
    )


def _clearest(rows: list[Row]) -> tuple[Extraction, ...]:
    names = [field.name for field in fields(Extraction)]
    order = sorted(rows, key=lambda row: (SHOWN.index(row["verdict"]), row["l2"], row["image_id"]))
    return tuple(Extraction(**{name: row[name] for name in names}) for row in order)


def curve(sources: Sources, findings: Iterable[Row]) -> Series | None:
    """The extraction rate of the audited model by copies; controls are pictures seen once."""
    binned: dict[str, list[Row]] = {}
    for row in findings:
        binned.setdefault(bin_label(row["n_duplicates"]), []).append(row)
    points = tuple(_point(label, binned[label]) for label in bin_labels(binned))
    return Series("audit", sources.labels(FINDINGS), points) if points else None


def _point(label: str, rows: list[Row]) -> Point:
    drawings = Rate.of(sum(r["n_hits"] for r in rows), sum(r["n_generated"] for r in rows))
    return Point(label, len(rows), drawings, Rate.of(_flagged(rows), len(rows)))


def _interest(row: Row) -> tuple[Any, ...]:
    return SHOWN.index(row["verdict"]), -row["n_duplicates"], -(row["rate"] or 0), row["prompt_id"]


def _with_best(sources: Sources, rows: list[Row]) -> tuple[Finding, ...]:
    """Each caption with the drawing of its own verdict that is nearest to a training image."""
    path = sources.one(_VERDICTS)
    wanted = {row["prompt_id"] for row in rows}
    best: dict[int, Row] = {}
    for drawing in read_rows(path, schemas.VERDICTS) if path else []:
        prompt = drawing["prompt_id"]
        if prompt in wanted and (
            prompt not in best or _strength(drawing) < _strength(best[prompt])
        ):
            best[prompt] = drawing
    return tuple(_finding(row, best.get(row["prompt_id"], {})) for row in rows)


def _strength(drawing: Row) -> tuple[Any, ...]:
    verdict = drawing["verdict"]
    rank = SHOWN.index(verdict) if verdict in SHOWN else len(SHOWN)
    distance = drawing["tiled_l2"]
    return rank, distance is None, distance or 0.0, drawing["generation_id"]


def _finding(row: Row, best: Row) -> Finding:
    return Finding(
        prompt_id=row["prompt_id"],
        caption=row["shown"],
        role=row["role"],
        verdict=row["verdict"],
        n_duplicates=row["n_duplicates"],
        n_caption_copies=row["n_caption_copies"],
        rate=Rate.of(row["n_hits"], row["n_generated"]),
        confidence=row["confidence"],
        clique_size=row["clique_size"],
        group_id=row["group_id"],
        image_id=best.get("image_id"),
        image_group_id=best.get("group_id"),
        generation_id=best.get("generation_id"),
        seed=best.get("seed"),
        **{name: best.get(name) for name in _DISTANCES},
    )


def _thresholds(config: VerdictConfig, models: Sequence[str]) -> dict[str, Any]:
    """Those that verdicts were made with, without the calibrated one where its file is gone."""
    if config.calibration is None:
        return vars(verdict_thresholds(config))
    try:
        known = read_audit_calibration(config.calibration).models
    except UnmemorizeError:  # findings name what it said
        known = {}
    found = [known[model] for model in models if model in known]
    said = vars(verdict_thresholds(config, found[0] if found else None))
    is_known = bool(found) or config.max_ratio is not None
    return {name: value for name, value in said.items() if is_known or name != "max_ratio"}


def _known(rows: list[Row], name: str) -> tuple[Any, ...]:
    """The distinct values of a column, ascending; of other generators' pictures there are none."""
    return tuple(sorted({row[name] for row in rows if row[name] is not None}))


def _flagged(rows: Iterable[Row]) -> int:
    return sum(row["verdict"] in HITS for row in rows)


def _counts(rows: Iterable[Row]) -> dict[str, int]:
    counts = Counter(row["verdict"] for row in rows)
    return {verdict: counts[verdict] for verdict in (*SHOWN, "none") if counts[verdict]}


def _sampling(drawn: list[Row], *, redact: bool) -> dict[str, Any]:
    """How the pictures were drawn; several values where drawings differ."""
    found: dict[str, Any] = {}
    for name in _SAMPLING:
        values = list(_known(drawn, name))
        if name == "negative_prompt" and redact:
            values = [short_hash(value) for value in values if value]
        if values:
            found[name] = values[0] if len(values) == 1 else ", ".join(map(str, values))
    return found
