"""What verification.json says of what was to stay, as rows of a table."""

from collections.abc import Iterator
from typing import Any

from pipeline.report.facts import Measure

Row = dict[str, Any]
LOSS, KID, DRIFT = "loss", "kid", "drift"
ORACLE = "oracle"
_SUBSETS = ("control", "unseen", "kept", "target", ORACLE)
_THIRDS = ("near", "mid", "far")
_JUDGED = ("control",)  # by the other subsets no model is damaged


def measures(said: Row) -> tuple[Measure, ...]:
    """The measures of one method; none in files of versions that did not measure."""
    found = said.get("collateral") or {}
    return (*_losses(found, said), *_distances(found), *_drifts(found))


def _losses(found: Row, said: Row) -> Iterator[Measure]:
    rows = dict(found.get(LOSS) or {})
    if found.get(ORACLE):
        rows[ORACLE] = found[ORACLE]
    for subset, row in _ranked(rows, _SUBSETS):
        judged = subset in _JUDGED
        yield Measure(
            measure=LOSS,
            of=subset,
            n=row["pictures"],
            drawings=None,
            value=row["change"],
            interval=_pair(row["interval"]),
            allowed=said.get("max_loss_change") if judged else None,
            status=row["status"] if judged else None,
            levels=tuple((level["timestep"], level["change"]) for level in row["levels"]),
        )


def _distances(found: Row) -> Iterator[Measure]:
    for arm, row in _ranked(found.get(KID), _SUBSETS):
        floor = _pair(row["floor"])
        yield Measure(
            measure=KID,
            of=arm,
            n=row["pictures"],
            drawings=row["drawings"],
            value=row["kid"],
            interval=_pair(row["interval"]),
            allowed=floor[1] if floor else None,
            status=row["status"] if arm in _JUDGED else None,
        )


def _drifts(found: Row) -> Iterator[Measure]:
    for third, row in _ranked(found.get(DRIFT), _THIRDS):
        yield Measure(
            measure=DRIFT,
            of=third,
            n=row["captions"],
            drawings=None,
            value=row["ratio"],
            interval=_pair(row["interval"]),
            allowed=None,  # which is said of all thirds together
            status=None,
        )


def _ranked(rows: Row | None, order: tuple[str, ...]) -> list[tuple[str, Row]]:
    known = rows or {}
    return [(name, known[name]) for name in order if name in known]


def _pair(values: list[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])
