"""Detectors beside their baselines, and how sure their AUC is.

    the interval's ends t solve  |t - auc| = z sqrt(t (1 - t) s / (p q)),
                                 s = 1 + m ((1 - t) / (2 - t) + t / (1 + t)),  m = (p + q) / 2 - 1

with p positives and q negatives (Newcombe 2006, Statistics in Medicine 25:559,
method 5, on the variance of Hanley and McNeil 1982). As with Wilson's interval, the variance is
that of the end and not of the estimate, so an AUC of 1 from few captions is not called certain.
"""

from collections.abc import Callable
from math import sqrt
from operator import itemgetter
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from pipeline.detection.gram_detectors import GRAM_DETECTORS
from pipeline.detection.roc import auc, tpr_at_fpr
from pipeline.detection.verdict import HITS
from pipeline.io import schemas
from pipeline.io.tables import read_rows
from pipeline.report.audit import FINDINGS
from pipeline.report.facts import Detector, DetectorTable, GapPoint, Rate
from pipeline.report.sources import Sources

Row = dict[str, Any]
FPR = 0.01
_SCORED = "scored.parquet"
_Z = float(norm.ppf(0.975))


def _clique_share(row: Row) -> float | None:
    return row["clique_size"] / row["n_generated"] if row["n_generated"] else None


_SCORES: tuple[tuple[str, str, bool, Callable[[Row], float | None]], ...] = (
    *((d.name, f"{d.title} ({d.source})", False, itemgetter(d.name)) for d in GRAM_DETECTORS),
    ("clique", "Share in largest clique (Carlini 2023)", False, _clique_share),
    ("n_duplicates", "Number of copies", True, lambda r: r["n_duplicates"]),
    ("caption_length", "Length of the caption", True, lambda r: len(r["caption"])),
)


def detector_tables(sources: Sources, findings: list[Row]) -> tuple[DetectorTable, ...]:
    """Detectors against our own verdict and, where it is known, against the truth."""
    verdict = {
        row["prompt_id"]: row["verdict"] in HITS
        for row in findings
        if row["verdict"] != "undecided"
    }
    tables = [_table("our own verdict", sources.labels(FINDINGS), findings, verdict)]
    if path := sources.one(_SCORED):
        truth = {
            row["prompt_id"]: row["truth"] == "positive"
            for row in read_rows(path, schemas.SCORED, columns=["prompt_id", "truth"])
            if row["truth"] != "partial"
        }
        labels = sources.labels(FINDINGS, _SCORED)
        tables.append(_table("the truth of the demo", labels, findings, truth))
    return tuple(table for table in tables if table.detectors)


def noise_gaps(findings: list[Row]) -> tuple[GapPoint, ...]:
    """Each screened caption: flagged, control, or a target that was not flagged."""
    return tuple(
        GapPoint("flagged" if row["verdict"] in HITS else row["role"], row["noise_gap"])
        for row in findings
        if row["noise_gap"] is not None
    )


def auc_interval(estimate: float, positives: int, negatives: int) -> tuple[float, float]:
    """Newcombe's 95 % interval of an AUC."""

    def excess(t: float) -> float:
        m = (positives + negatives) / 2 - 1
        spread = 1 + m * ((1 - t) / (2 - t) + t / (1 + t))
        half = _Z * sqrt(max(t * (1 - t), 0.0) * spread / (positives * negatives))
        return abs(t - estimate) - half

    inside = 1e-9  # the estimate itself is a root where it is 0 or 1
    low = brentq(excess, 0.0, estimate - inside) if estimate > inside else 0.0
    high = brentq(excess, estimate + inside, 1.0) if estimate < 1 - inside else 1.0
    return float(low), float(high)


def _table(
    against: str, sources: tuple[str, ...], findings: list[Row], labels: dict[int, bool]
) -> DetectorTable:
    rows = [row for row in findings if row["prompt_id"] in labels]
    positives = sum(labels[row["prompt_id"]] for row in rows)
    negatives = len(rows) - positives
    found: list[Detector] = []
    if positives and negatives:
        measured = (_detector(*score, rows, labels) for score in _SCORES)
        found = [
            *(d for d in measured if d),
            Detector("random", "Random", True, len(rows), 0.5, None, None, None),
        ]
    return DetectorTable(against, sources, positives, negatives, tuple(found))


def _detector(
    name: str,
    title: str,
    baseline: bool,
    score: Callable[[Row], float | None],
    rows: list[Row],
    labels: dict[int, bool],
) -> Detector | None:
    measured = [(score(row), labels[row["prompt_id"]]) for row in rows]
    known = [(value, label) for value, label in measured if value is not None]
    scores = np.array([value for value, _ in known], np.float64)
    truth = np.array([label for _, label in known], bool)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    area = auc(scores, truth)
    hits = round(tpr_at_fpr(scores, truth, FPR) * positives)
    low, high = auc_interval(area, positives, negatives)
    return Detector(name, title, baseline, len(known), area, low, high, Rate.of(hits, positives))
