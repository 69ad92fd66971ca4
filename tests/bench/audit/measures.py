"""Verdicts and scores against the truth: rates with intervals, by caption family.

Captions of one family (a planted picture's rewordings and its sibling) stand or fall together, so
intervals of scores resample families (Efron and Tibshirani 1993, chapter 8). Wilson intervals of
counts treat captions as independent and are too narrow by as much; both are printed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.detection.intervals import wilson
from pipeline.detection.roc_intervals import RocSummary, roc_summary
from pipeline.detection.verdict import HITS

RESAMPLES = 400
FPR = 0.01
POSITIVE, NEGATIVE, PARTIAL = "positive", "negative", "partial"
NO_DETECTOR = frozenset(
    [
        "prompt_id",
        "group_id",
        "n_duplicates",
        "n_caption_copies",
        "confidence",
        "n_generated",
        "n_hits",
        "ci_low",
        "ci_high",
        "n_unet_forwards",
    ]
)

Row = dict[str, Any]
Statistic = Callable[[Sequence[Row]], float | None]


@dataclass(frozen=True)
class Rate:
    """`hits` of `n` with a Wilson interval and one by resampling families."""

    hits: int
    n: int
    wilson: tuple[float, float]
    families: tuple[float, float] | None

    @property
    def value(self) -> float | None:
        return self.hits / self.n if self.n else None


def rate(rows: Sequence[Row], hit: Callable[[Row], bool]) -> Rate:
    """The share of rows that `hit`."""
    hits = sum(hit(row) for row in rows)
    spread = by_family(rows, lambda some: float(np.mean([hit(row) for row in some])))
    return Rate(hits, len(rows), wilson(hits, len(rows)), spread)


def by_family(rows: Sequence[Row], statistic: Statistic) -> tuple[float, float] | None:
    """The 95 % percentile interval of a statistic over resampled families of (model, family)."""
    families: dict[Any, list[Row]] = {}
    for row in rows:
        families.setdefault((row["model"], row["family"]), []).append(row)
    groups = list(families.values())
    rng = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES if groups else 0):
        drawn = [row for i in rng.integers(len(groups), size=len(groups)) for row in groups[i]]
        value = statistic(drawn)
        if value is not None:
            values.append(value)
    if not values:
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def flagged(row: Row) -> bool:
    """Does the verdict say that a training picture is reproduced?"""
    return row["verdict"] in HITS


def is_template(row: Row) -> bool:
    """Is a positive caption one of a template whose copies differ?"""
    return row["regime"] == "template" and row["k"] > 1


def verdict_rates(rows: Sequence[Row]) -> dict[str, Rate]:
    """Precision over what is flagged and recall over what is positive; partial ones apart.

    Of verbatim: precision of that verdict, recall of positive captions that are no template's,
    whichever of the two verdicts they got. Of template alike.
    """
    clear = [row for row in rows if row["label"] != PARTIAL]
    positive = [row for row in clear if row["label"] == POSITIVE]
    rates = {}
    for name, of_kind, verdicts in (
        ("all", lambda row: True, set(map(str, HITS))),
        ("verbatim", lambda row: not is_template(row), {"verbatim"}),
        ("template", is_template, {"template"}),
    ):
        said = [row for row in clear if row["verdict"] in verdicts]
        rates[f"{name}: precision"] = rate(said, lambda row: bool(row["label"] == POSITIVE))
        rates[f"{name}: recall"] = rate([row for row in positive if of_kind(row)], flagged)
    return rates


def confusion(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, int]]:
    """Captions by (regime, truth), then by verdict."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        cell = counts.setdefault((row["regime"], row["label"]), {})
        cell[row["verdict"]] = cell.get(row["verdict"], 0) + 1
    return dict(sorted(counts.items()))


def detector_columns(rows: Sequence[Row]) -> list[str]:
    """Columns of findings that hold a number that may tell: every float or count not known else."""
    names = dict.fromkeys(name for row in rows for name in row["finding"])
    return [
        name
        for name in names
        if name not in NO_DETECTOR
        and any(_is_number(row["finding"].get(name)) for row in rows)
        and all(
            row["finding"].get(name) is None or _is_number(row["finding"][name]) for row in rows
        )
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def score(rows: Sequence[Row], values: Mapping[Any, float | None]) -> RocSummary | None:
    """AUC and TPR at 1 % FPR of `values`, by (model, prompt_id), high for a memorized caption.

    None where positive or negative captions with a value are missing.
    """
    usable = [
        (row, float(value))
        for row in rows
        if row["label"] != PARTIAL and (value := values.get(key(row))) is not None
    ]
    labels = np.array([row["label"] == POSITIVE for row, _ in usable], bool)
    if labels.all() or not labels.any():
        return None
    families = family_ids([row for row, _ in usable])
    return roc_summary(np.array([value for _, value in usable]), labels, families, FPR)


def family_ids(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """A number for each (model, family), (n,)."""
    numbers: dict[Any, int] = {}
    names = [(row["model"], row["family"]) for row in rows]
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def key(row: Row) -> tuple[str, int]:
    """What names a caption of a model."""
    return row["model"], row["prompt_id"]


def curve(rows: Sequence[Row]) -> list[Row]:
    """Reproduction of the caption's own picture by regime and copies of the picture."""
    cells: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["regime"], row["k"]), []).append(row)
    return [
        {
            "regime": regime,
            "k": k,
            "captions": len(some),
            "drawings": sum(row["n"] for row in some),
            "p": float(np.mean([row["p_own"] for row in some])),
            "interval": by_family(some, lambda r: float(np.mean([row["p_own"] for row in r]))),
            "positive": sum(row["p_own"] >= 0.5 for row in some),
        }
        for (regime, k), some in sorted(cells.items())
    ]


def calibration_error(rows: Sequence[Row], bins: int = 10) -> tuple[float, int] | None:
    """Expected calibration error of `confidence` as the probability that the verdict is right.

    sum over bins of n_b / n |mean confidence - share right| (Naeini et al. 2015), equal widths, of
    clear captions with a verdict; None where no row has a confidence.
    """
    usable = [
        (row["finding"]["confidence"], flagged(row) == (row["label"] == POSITIVE))
        for row in rows
        if row["label"] != PARTIAL
        and row["verdict"] != "undecided"
        and row["finding"].get("confidence") is not None
    ]
    if not usable:
        return None
    confidence, right = (np.array(column, np.float64) for column in zip(*usable, strict=True))
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    error = sum(
        abs(confidence[place == b].mean() - right[place == b].mean()) * (place == b).mean()
        for b in np.unique(place)
    )
    return float(error), len(usable)
