"""One run of `verify` as the figures of the table: of each method, and of the base model.

A rate is of drawings, attempts or pictures with Wilson's interval; the attack's difference has
Newcombe's; drift and loss have intervals by resampling captions or pictures. Another memorized
picture counts where half of its drawings or more showed it before, and is kept where half or more
still do.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.detection.bootstrap import Estimate, mean_ratio
from pipeline.detection.intervals import difference, wilson
from pipeline.detection.verdict import HITS
from pipeline.io import schemas
from pipeline.io.tables import read_parts, read_rows
from pipeline.stages.attack import ORACLE, TARGET, UNSEEN
from pipeline.stages.redraw import BASE
from tests.bench.audit.measures import Rate, Row

_ERASED = ("trained", "held_out")
_MOST = 0.5
_BEFORE, _AFTER = "hits_before", "hits_after"


@dataclass(frozen=True)
class Change:
    """A value of n units with an interval, which is None where there are too few."""

    value: float
    n: int
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Figures:
    """What is known of one model; None where it was not measured, or cannot be."""

    method: str
    targets: int
    trained: Rate
    held_out: Rate | None
    attacked: Rate | None
    floor: Rate | None
    above: Change | None
    kept: Rate
    drift: Change | None
    loss: Change | None
    displaced: Rate
    verdict: str
    damage: tuple[str, ...]
    by_similarity: Rate | None = None


def read_figures(run: Path, methods: Sequence[str], targets: int) -> list[Figures]:
    """The base model first, then these methods; raises KeyError for one that was not verified."""
    rows = read_rows(run / "verification.parquet", schemas.VERIFICATION)
    said = json.loads((run / "verification.json").read_text())["methods"]
    own = {name: [row for row in rows if row["method"] == name] for name in methods}
    found = [_base(run, own[methods[0]], targets)]
    return found + [_erased(name, own[name], said[name], targets) for name in methods]


def _base(run: Path, rows: Sequence[Row], targets: int) -> Figures:
    """As it was drawn and attacked beside any of the methods."""
    redrawn = read_parts(sorted(run.glob(f"redraws/part-{BASE}-?????.parquet")), schemas.REDRAWS)
    drawn = [row for row in redrawn.to_pylist() if row["arm"] in _ERASED]
    other = sum(r["verdict"] in HITS and r["group_id"] != r["target_group"] for r in drawn)
    attacked, floor, above = _attack(rows, _BEFORE)
    return Figures(
        method=BASE,
        targets=targets,
        trained=_rate(_arm(rows, "trained"), _BEFORE),
        held_out=_held_out(rows, _BEFORE),
        attacked=attacked,
        floor=floor,
        above=above,
        kept=kept(_arm(rows, "kept"), _BEFORE),
        drift=None,
        loss=None,
        displaced=share(other, len(drawn)),
        verdict="",
        damage=(),
    )


def _erased(name: str, rows: Sequence[Row], said: Row, targets: int) -> Figures:
    attacked, floor, above = _attack(rows, _AFTER)
    return Figures(
        method=name,
        targets=targets,
        trained=_rate(_arm(rows, "trained"), _AFTER),
        held_out=_held_out(rows, _AFTER),
        attacked=attacked,
        floor=floor,
        above=above,
        kept=kept(_arm(rows, "kept"), _AFTER),
        drift=drift(_arm(rows, "control")),
        loss=_loss(said),
        displaced=_rate([row for arm in _ERASED for row in _arm(rows, arm)], "displaced_after"),
        verdict=said["verdict"],
        damage=tuple(said["damage"]),
    )


def share(hits: int, n: int) -> Rate:
    """A rate with Wilson's interval."""
    return Rate(hits, n, wilson(hits, n), None)


def _rate(rows: Sequence[Row], column: str) -> Rate:
    return share(sum(row[column] for row in rows), sum(row["n"] for row in rows))


def _arm(rows: Sequence[Row], arm: str, *, attacked: bool = False) -> list[Row]:
    return [row for row in rows if row["arm"] == arm and (row["attack"] != "none") == attacked]


def _held_out(rows: Sequence[Row], column: str) -> Rate | None:
    """Of held-out captions that drew the picture before; None where there are none."""
    drew = [row for row in _arm(rows, "held_out") if row[_BEFORE]]
    return _rate(drew, column) if drew else None


def kept(rows: Sequence[Row], column: str) -> Rate:
    """Pictures drawn before that are, by their drawings in `column`, still drawn."""
    pictures: dict[Any, list[Row]] = {}
    for row in rows:
        pictures.setdefault(row["target_group"], []).append(row)
    drew = [some for some in pictures.values() if _mostly(some, _BEFORE)]
    return share(sum(_mostly(some, column) for some in drew), len(drew))


def _mostly(rows: Sequence[Row], column: str) -> bool:
    return bool(sum(r[column] for r in rows) >= _MOST * sum(r["n"] for r in rows))


def _attack(rows: Sequence[Row], column: str) -> tuple[Rate | None, Rate | None, Change | None]:
    """Attempts on the targets, on what is compared with, and the difference of the two."""
    targets = _arm(rows, TARGET, attacked=True)
    if not targets:
        return None, None, None
    attacked = _rate(targets, column)
    oracle = _arm(rows, ORACLE, attacked=True)  # a model of its own: nothing came before
    floor = _rate(oracle, _AFTER) if oracle else _rate(_arm(rows, UNSEEN, attacked=True), column)
    if not floor.n:
        return attacked, None, None
    bounds = difference(attacked.hits, attacked.n, floor.hits, floor.n)
    above = attacked.hits / attacked.n - floor.hits / floor.n
    return attacked, floor, Change(above, attacked.n + floor.n, bounds)


def drift(rows: Sequence[Row]) -> Change | None:
    """Change of drawings in units of the difference between two seeds of the same caption."""
    known = [row for row in rows if row["seed_drift"]]
    if not known:
        return None
    before, after = (np.array([row[c] for row in known]) for c in ("seed_drift", "drift"))
    return _as_change(mean_ratio(after, before))


def _as_change(found: Estimate | None) -> Change | None:
    return None if found is None else Change(found.value, found.n, found.interval)


def _loss(said: Row) -> Change | None:
    loss = said["collateral"]["loss"].get("control")
    if loss is None or loss["change"] is None:
        return None
    interval = loss["interval"]
    return Change(loss["change"], loss["pictures"], interval and (interval[0], interval[1]))
