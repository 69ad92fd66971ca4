"""Detectors beside their baselines: how well each parts captions, how sure that is, its cost.

Intervals are over families of captions (detection/roc_intervals.py), never over captions as if
each were a test of its own. No score is turned round after a look at the labels.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from pipeline.detection.caption_families import caption_families
from pipeline.detection.gram_detectors import GRAM_DETECTORS
from pipeline.detection.probe_detectors import PROBE_DETECTORS
from pipeline.detection.roc import random_tpr
from pipeline.detection.roc_intervals import roc_summary
from pipeline.detection.scored_steps import PURE_NOISE
from pipeline.detection.text_only import text_only_scores
from pipeline.detection.verdict import HITS
from pipeline.ids import hash63
from pipeline.io import schemas
from pipeline.io.tables import read_parts, read_rows, read_table
from pipeline.report.audit import FINDINGS
from pipeline.report.facts import Detector, DetectorTable, GapPoint, Rate
from pipeline.report.sources import Sources

Row = dict[str, Any]
FPR = 0.01
_SCORED, _SCREEN, _PROBES = "scored.parquet", "screen.parquet", "probes.parquet"
_GENERATIONS = "generations/*.parquet"
_TEXT_ONLY = "text_only"
_MAX_TEXTS = 20_000  # captions that the text-only baseline is fitted on: a minute


def _clique_share(row: Row) -> float | None:
    return row["clique_size"] / row["n_generated"] if row["n_generated"] else None


def _cluster_share(row: Row) -> float | None:
    size = row["density_cluster_size"]
    return size / row["n_generated"] if size is not None and row["n_generated"] else None


_SCORES: tuple[tuple[str, str, bool, Callable[[Row], float | None]], ...] = (
    *((d.name, f"{d.title} ({d.source})", False, itemgetter(d.name)) for d in GRAM_DETECTORS),
    *((d.name, f"{d.title} ({d.source})", False, itemgetter(d.name)) for d in PROBE_DETECTORS),
    ("clique", "Share in largest clique (Carlini 2023)", False, _clique_share),
    ("density", "Share in largest density cluster (MemBench 2024)", False, _cluster_share),
    ("n_duplicates", "Number of copies", True, lambda r: r["n_duplicates"]),
    ("caption_length", "Length of the caption", True, lambda r: len(r["caption"])),
    (_TEXT_ONLY, "Letters of the caption, a classifier", True, lambda r: r.get(_TEXT_ONLY)),
)


def detector_tables(sources: Sources, findings: list[Row]) -> tuple[DetectorTable, ...]:
    """Detectors against our own verdict and, where it is known, against the truth."""
    verdict = {
        row["prompt_id"]: row["verdict"] in HITS
        for row in findings
        if row["verdict"] != "undecided"
    }
    costs = _forwards(sources, findings)
    own = sources.labels(FINDINGS)
    tables = [_table("our own verdict", own, findings, verdict, costs)]
    if path := sources.one(_SCORED):
        truth = {
            row["prompt_id"]: row["truth"] == "positive"
            for row in read_rows(path, schemas.SCORED, columns=["prompt_id", "truth"])
            if row["truth"] != "partial"
        }
        labels = sources.labels(FINDINGS, _SCORED)
        tables.append(_table("the truth of the demo", labels, findings, truth, costs))
    return tuple(table for table in tables if table.detectors)


def noise_gaps(findings: list[Row]) -> tuple[GapPoint, ...]:
    """Each screened caption: flagged, control, or a target that was not flagged."""
    return tuple(
        GapPoint("flagged" if row["verdict"] in HITS else row["role"], row["noise_gap"])
        for row in findings
        if row["noise_gap"] is not None
    )


def _table(
    against: str,
    sources: tuple[str, ...],
    findings: list[Row],
    labels: dict[int, bool],
    costs: dict[str, float],
) -> DetectorTable:
    rows = [row for row in findings if row["prompt_id"] in labels]
    truth = np.array([labels[row["prompt_id"]] for row in rows], bool)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    found: list[Detector] = []
    families = caption_families([row["caption"] for row in rows])
    if positives and negatives:
        rows = _with_text_scores(rows, truth, families)
        measured = (
            _detector(name, title, baseline, [score(row) for row in rows], truth, families, costs)
            for name, title, baseline, score in _SCORES
        )
        chance = Detector(
            "random", "Random", True, len(rows), 0.5, None, None, None, 0.0,
            random_tpr(negatives, FPR),
        )  # fmt: skip
        found = [*(d for d in measured if d), chance]
    n_families = len(np.unique(families))
    return DetectorTable(against, sources, positives, negatives, n_families, tuple(found))


def _with_text_scores(
    rows: list[Row], truth: npt.NDArray[np.bool_], families: npt.NDArray[np.int64]
) -> list[Row]:
    """The rows with their text-only score; of very many captions, a sample by hash has one."""
    order = sorted(range(len(rows)), key=lambda i: hash63(_TEXT_ONLY, rows[i]["prompt_id"]))
    chosen = np.sort(np.array(order[:_MAX_TEXTS], np.int64))
    known, kind = families[chosen], truth[chosen]
    if min(len(np.unique(known[kind])), len(np.unique(known[~kind]))) < 2:
        return rows
    scores = text_only_scores([rows[i]["caption"] for i in chosen], kind, known)
    scored = dict(zip(chosen.tolist(), scores.tolist(), strict=True))
    return [row | {_TEXT_ONLY: scored.get(i)} for i, row in enumerate(rows)]


def _detector(
    name: str,
    title: str,
    baseline: bool,
    values: list[float | None],
    truth: npt.NDArray[np.bool_],
    families: npt.NDArray[np.int64],
    costs: dict[str, float],
) -> Detector | None:
    known = np.array([value is not None for value in values])
    scores = np.array([value for value in values if value is not None], np.float64)
    labels = truth[known]
    if labels.all() or not labels.any():
        return None
    found = roc_summary(scores, labels, families[known], FPR)
    hits = round(found.tpr * int(labels.sum()))
    return Detector(
        name,
        title,
        baseline,
        len(scores),
        found.auc,
        *found.auc_ci,
        Rate(hits, int(labels.sum()), found.tpr, *found.tpr_ci),
        0.0 if baseline else costs.get(name),
        None,
    )


def _forwards(sources: Sources, findings: list[Row]) -> dict[str, float]:
    """Forwards of the model that a caption's score takes, alone, at the numbers of this run."""
    costs: dict[str, float] = {}
    if path := sources.one(_SCREEN):
        columns = ["prompt_id", "seed", "step", "x_t_source"]
        table = read_table(path, schemas.SCREEN, columns=columns)
        captions = len(pc.unique(table["prompt_id"])) or 1
        seeds = table.group_by(["prompt_id", "seed"]).aggregate([]).num_rows / captions
        late = pc.and_(pc.equal(table["x_t_source"], PURE_NOISE), pc.greater(table["step"], 0))
        steps = (table.num_rows - (pc.sum(late).as_py() or 0)) / captions
        for detector in GRAM_DETECTORS:
            pairs = steps if detector.pairs is None else detector.pairs * seeds
            costs[detector.name] = 2 * pairs
    if path := sources.one(_PROBES):
        probed = read_table(path, schemas.PROBES, columns=["probe", "n_forwards"])
        means = probed.group_by("probe").aggregate([("n_forwards", "mean")])
        costs |= dict(
            zip(means["probe"].to_pylist(), means["n_forwards_mean"].to_pylist(), strict=True)
        )
    drawn = read_parts(
        sources.find(_GENERATIONS), schemas.GENERATIONS, columns=["num_inference_steps"]
    )
    steps = pc.sum(drawn["num_inference_steps"]).as_py() or 0
    of_pictures = 2 * steps / max(len(findings), 1)
    return costs | {"clique": of_pictures, "density": of_pictures}
