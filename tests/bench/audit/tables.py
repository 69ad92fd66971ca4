"""The benchmark's figures as tables on a terminal and as results.json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from pipeline.detection.roc_intervals import RocSummary
from tests.bench.audit.baselines import BASELINES
from tests.bench.audit.carlini import Point
from tests.bench.audit.measures import (
    NEGATIVE,
    PARTIAL,
    POSITIVE,
    Rate,
    Row,
    calibration_error,
    confusion,
    curve,
    detector_columns,
    flagged,
    key,
    rate,
    score,
    verdict_rates,
)

PUBLISHED = 109 / 350_000
"""The prevalence that Carlini et al. 2023 found in the most duplicated captions of LAION."""
FULL = 500


def as_text(value: Rate) -> list[str]:
    """A rate's cells: value, n, Wilson, by family."""
    if value.value is None:
        return ["", "0 of 0", "", ""]
    return [
        f"{value.value:.3f}",
        f"{value.hits} of {value.n}",
        _interval(value.wilson),
        _interval(value.families),
    ]


def _interval(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.3f} to {pair[1]:.3f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def verdicts(rows: Sequence[Row], title: str) -> list[Table]:
    """Verdict against truth, pooled and by model, and where the errors are."""
    columns = ("", "value", "n", "95 % Wilson", "95 % by family")
    table = _table(f"verdict against truth, {title}", *columns)
    for name, value in verdict_rates(rows).items():
        table.add_row(name, *as_text(value))
    clear = [row for row in rows if row["label"] != PARTIAL]
    table.add_row("undecided", *as_text(rate(clear, lambda row: row["verdict"] == "undecided")))
    fresh = [row for row in clear if row["label"] == NEGATIVE and not row["calibrated_on"]]
    table.add_row("false alarms, not calibrated on", *as_text(rate(fresh, flagged)))
    own = [row for row in rows if row["p_own"] >= 0.5 and flagged(row)]
    table.add_row("names the right picture", *as_text(rate(own, _names_own)))
    models = _table("by model", "model", "precision", "n", "recall", "n")
    for model in dict.fromkeys(row["model"] for row in rows):
        found = verdict_rates([row for row in rows if row["model"] == model])
        precision, recall = found["all: precision"], found["all: recall"]
        models.add_row(model, *as_text(precision)[:2], *as_text(recall)[:2])
    cells = confusion(rows)
    said = sorted({verdict for counts in cells.values() for verdict in counts})
    where = _table("captions by regime and truth", "regime", "truth", *said)
    for (regime, truth), counts in cells.items():
        where.add_row(regime, truth, *(str(counts.get(verdict, "")) for verdict in said))
    return [table, models, where]


def _names_own(row: Row) -> bool:
    return row["picture_id"] in row["found_pictures"]


def forwards(rows: Sequence[Row], steps: int) -> list[dict[str, Any]]:
    """Mean UNet forwards a prompt by truth, as audited, and at the published prevalence."""
    spent = {
        name: float(np.mean([r["finding"]["n_unet_forwards"] for r in some]))
        for name in (POSITIVE, PARTIAL, NEGATIVE)
        if (some := [r for r in rows if r["label"] == name])
    }
    full = 2.0 * steps * FULL
    found = [{"which": name, "forwards": value} for name, value in spent.items()]
    whole = float(np.mean([r["finding"]["n_unet_forwards"] for r in rows]))
    found.append({"which": "all, as audited", "forwards": whole})
    if POSITIVE in spent and NEGATIVE in spent:
        value = PUBLISHED * spent[POSITIVE] + (1 - PUBLISHED) * spent[NEGATIVE]
        found.append({"which": f"at {PUBLISHED:.3%} memorized", "forwards": value})
    return [row | {"of 500": full / row["forwards"]} for row in found if row["forwards"]]


def costs(rows: Sequence[Row], steps: int) -> Table:
    """What the audit spent, beside 500 generations at the same steps."""
    table = _table(
        f"UNet forwards a prompt; 500 generations of {steps} steps take {2 * steps * FULL:,}",
        "captions",
        "forwards",
        "times fewer",
    )
    for row in forwards(rows, steps):
        table.add_row(row["which"], f"{row['forwards']:,.1f}", f"{row['of 500']:,.0f}")
    return table


def detectors(rows: Sequence[Row], costs: Mapping[str, float]) -> list[dict[str, Any]]:
    """Every baseline and every number of findings.parquet: how well it tells, and its forwards."""
    scored: list[tuple[str, RocSummary | None, float | None]] = []
    for name, function in BASELINES.items():
        scored.append((name, score(rows, function(rows)), 0.0))
    for column in detector_columns(rows):
        values = {key(row): row["finding"].get(column) for row in rows}
        scored.append((column, score(rows, values), costs.get(column)))
    return [
        {
            "detector": name,
            "families": [found.positive_families, found.negative_families],
            "auc": found.auc,
            "auc_interval": found.auc_ci,
            "tpr": found.tpr,
            "tpr_interval": found.tpr_ci,
            "forwards": cost,
        }
        for name, found, cost in scored
        if found is not None
    ]


def detector_table(found: Iterable[dict[str, Any]], title: str) -> Table:
    """The rows of `detectors`."""
    columns = ("AUC", "95 %", "TPR at 1 % FPR", "95 %", "forwards", "families")
    table = _table(title, "score", *columns)
    for row in found:
        table.add_row(
            row["detector"],
            f"{row['auc']:.3f}",
            _interval(row["auc_interval"]),
            f"{row['tpr']:.3f}",
            _interval(row["tpr_interval"]),
            "" if row["forwards"] is None else f"{row['forwards']:,.0f}",
            f"{row['families'][0]} + {row['families'][1]}",
        )
    return table


def curves(rows: Sequence[Row], title: str) -> Table:
    """Reproduction rate of the own picture by copies."""
    table = _table(title, "regime", "copies", "rate", "95 % by family", "p >= .5", "drawings")
    for cell in curve(rows):
        table.add_row(
            cell["regime"],
            str(cell["k"]),
            f"{cell['p']:.3f}",
            _interval(cell["interval"]),
            f"{cell['positive']} of {cell['captions']}",
            f"{cell['drawings']:,}",
        )
    return table


def extraction(before: Sequence[Row], after: Sequence[Row]) -> list[dict[str, Any]]:
    """Planted pictures reproduced by half of a caption's drawings, before and after dedup."""
    rows = []
    for regime in dict.fromkeys(row["regime"] for row in before):
        pictures = [
            {row["picture_id"] for row in some if row["regime"] == regime and row["p_own"] >= 0.5}
            for some in (before, after)
        ]
        whole = {row["picture_id"] for row in before if row["regime"] == regime}
        rows.append(
            {
                "regime": regime,
                "pictures": len(whole),
                "before": len(pictures[0]),
                "after": len(pictures[1]),
                "flagged before": _flagged(before, regime),
                "flagged after": _flagged(after, regime),
            }
        )
    return rows


def _flagged(rows: Sequence[Row], regime: str) -> int:
    """Pictures with a caption that the audit flags."""
    return len({row["picture_id"] for row in rows if row["regime"] == regime and flagged(row)})


def extraction_table(rows: Iterable[dict[str, Any]]) -> Table:
    """The rows of `extraction`."""
    table = _table(
        "pictures that half of a caption's drawings reproduce, and that the audit flags: the set "
        "as it is, and deduplicated",
        "regime",
        "pictures",
        "before",
        "after",
        "flagged before",
        "flagged after",
    )
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table


def calibration(rows: Sequence[Row]) -> str:
    """The calibration error in a line."""
    found = calibration_error(rows)
    if found is None:
        return "calibration: findings.confidence is null; `unmemorize calibrate audit` fills it"
    return f"calibration: expected error {found[0]:.4f} over {found[1]} captions"


def carlini_table(found: Iterable[Point], ours: tuple[Rate, Rate, float]) -> Table:
    """The rule of 500 generations beside our verdict on the same captions."""
    table = _table("a clique of ten (Carlini et al. 2023)", "rule", "forwards", "found", "false")
    for p in found:
        capped = f" ({p.capped} cut short)" if p.capped else ""
        table.add_row(
            f"epsilon {p.epsilon}, {p.drawn} generations{capped}",
            f"{p.forwards:,}",
            f"{p.found} of {p.positive}",
            f"{p.false} of {p.negative}",
        )
    recall, false, spent = ours
    table.add_row(
        "our verdict",
        f"{spent:,.1f}",
        f"{recall.hits} of {recall.n}",
        f"{false.hits} of {false.n}",
    )
    return table
