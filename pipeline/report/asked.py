"""The answers to a rights-holder's list of images."""

from collections import Counter
from typing import Any

from pipeline.detection.verdict import Verdict
from pipeline.io import schemas
from pipeline.io.tables import read_rows
from pipeline.report.facts import AskedImage, AskedImages, Rate
from pipeline.report.sources import Sources
from pipeline.report.text import short_hash

_TABLE = "images_asked.parquet"
_ORDER = [str(verdict) for verdict in Verdict]


def asked(sources: Sources) -> AskedImages | None:
    """What was asked and answered; None where nobody asked."""
    path = sources.one(_TABLE)
    if path is None:
        return None
    rows = read_rows(path, schemas.IMAGES_ASKED)
    answered = [row for row in rows if row["status"] == "ok"]
    verdicts = Counter(row["verdict"] for row in answered if row["verdict"])
    rejected = Counter(row["reason"] for row in rows if row["status"] != "ok")
    report = sources.context.config.report
    shown = [_image(row, redact=report.redact) for row in sorted(answered, key=_interest)]
    return AskedImages(
        sources=sources.labels(_TABLE),
        rows=len(rows),
        not_in_set=sum(not row["found"] for row in answered),
        not_drawn=sum(row["found"] and row["verdict"] is None for row in answered),
        verdicts={verdict: verdicts[verdict] for verdict in _ORDER if verdicts[verdict]},
        rejected=dict(sorted(rejected.items())),
        shown=tuple(shown[: report.max_findings]),
    )


def _interest(row: dict[str, Any]) -> tuple[Any, ...]:
    verdict = row["verdict"]
    place = _ORDER.index(verdict) if verdict else len(_ORDER)
    return not row["found"], place, -(row["n_duplicates"] or 0), row["row"], row["group_id"] or 0


def _image(row: dict[str, Any], *, redact: bool) -> AskedImage:
    captions = row["captions"] or []
    drawn = row["n_generated"]
    return AskedImage(
        asked=short_hash(row["asked"]) if redact else row["asked"],
        found=row["found"],
        how=row["how"],
        image_id=row["image_id"],
        n_duplicates=row["n_duplicates"],
        verdict=row["verdict"],
        drawings=None if drawn is None else Rate.of(row["n_hits"], drawn),
        elsewhere=row["n_hits_elsewhere"] or 0,
        captions=tuple(short_hash(c) if redact else c for c in captions),
        generation_id=row["generation_id"],
        l2=row["l2"],
        tiled_l2=row["tiled_l2"],
    )
