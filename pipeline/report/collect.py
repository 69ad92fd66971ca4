"""From the tables of a run to the facts of its report."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.report import dataset, detectors
from pipeline.report.asked import asked
from pipeline.report.audit import FINDINGS, audit, curve, extracted, read_findings
from pipeline.report.bins import bin_label, bin_labels
from pipeline.report.captions import captions
from pipeline.report.erasure import curves_after, erasure
from pipeline.report.facts import Demo, Facts, Point, Rate, Series
from pipeline.report.limits import limits, not_run
from pipeline.report.sources import RUN, Sources
from pipeline.runner.part import Context

TRUTH = "truth"
_DECIMALS = 6
_PAGE_ONLY = (
    ("duplicates", "shown"),
    ("captions", "shown"),
    ("extracted", "shown"),
    ("asked", "shown"),
    ("erasure", "comparisons"),
    ("noise_gaps",),
)


def collect(context: Context) -> Facts:
    """Read what there is; a block whose stage did not run is None, and `not_run` says so.

    `files` is left empty: digests take a pass over every file.
    """
    sources = Sources(context)
    findings = read_findings(sources)
    score = sources.json("score.json")
    curves = (curve(sources, findings), *curves_after(sources, findings), _truth(sources, score))
    made = sources.json(RUN)
    facts = Facts(
        redacted=context.config.report.redact,
        versions=dict(made.get("versions", {})),
        seed=context.config.seed,
        model=_model_name(context, audited=sources.one(FINDINGS) is not None),
        upstream=_fingerprints(made),
        images=dataset.images(sources),
        duplicates=dataset.duplicates(sources),
        captions=captions(sources),
        audit=audit(sources, findings),
        extracted=extracted(sources),
        asked=asked(sources),
        curve=tuple(series for series in curves if series),
        detectors=detectors.detector_tables(sources, findings),
        noise_gaps=detectors.noise_gaps(findings),
        erasure=erasure(sources),
        demo=Demo(sources.labels("score.json", "scored.parquet"), score) if score else None,
        not_run=(),
        limits=(),
        files=(),
    )
    return replace(facts, not_run=not_run(facts), limits=limits(facts))


def as_json(facts: Facts) -> dict[str, Any]:
    """The facts as JSON values, floats rounded; what only the page shows is left out."""
    values = asdict(facts)
    for path in _PAGE_ONLY:
        node = values
        for name in path[:-1]:
            node = node[name] or {}
        node.pop(path[-1], None)
    return dict(_rounded(values))


def _truth(sources: Sources, score: dict[str, Any]) -> Series | None:
    """The demo's own curve: fresh seeds, another measure."""
    binned: dict[str, list[dict[str, Any]]] = {}
    for row in score.get("curve", ()):
        binned.setdefault(bin_label(row["k"]), []).append(row)
    points = tuple(
        Point(
            label,
            sum(row["captions"] for row in binned[label]),
            Rate.of(sum(r["hits"] for r in binned[label]), sum(r["n"] for r in binned[label])),
        )
        for label in bin_labels(binned)
    )
    return Series(TRUTH, sources.labels("score.json"), points) if points else None


def _model_name(context: Context, *, audited: bool) -> str | None:
    """The model's name without the folders of this machine."""
    name, folder = context.config.model.path, context.config.generate.folder
    if folder is not None and name is None:
        return f"pictures of another generator, {folder.name}" if audited else None
    if name is None:
        return "the demo's model" if audited else None
    return Path(name).name if Path(name).is_absolute() else name


def _fingerprints(made: dict[str, Any]) -> dict[str, str]:
    upstream = made.get("upstream", {})
    return {role: str(run["fingerprint"]) for role, run in sorted(upstream.items())}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
