"""Before and after: each erased model's verdict, its rates by arm, and drawings to look at."""

from collections.abc import Iterable
from typing import Any

from pipeline.detection.verdict import HITS
from pipeline.ids import hash63
from pipeline.io import schemas
from pipeline.io.tables import read_parts, read_rows
from pipeline.report.bins import bin_label, bin_labels
from pipeline.report.collateral import measures
from pipeline.report.facts import Arm, Comparison, Erasure, Method, Point, Rate, Redraw, Series
from pipeline.report.sources import Sources, read_json
from pipeline.report.text import short_hash

Row = dict[str, Any]
BASE = "base"
NO_ATTACK = "none"
ARMS = ("trained", "held_out", "kept", "control", "empty")
_ERASED_ARMS = ("trained", "held_out")
_SHOWN_BY_ARM = {"trained": 6, "held_out": 3, "kept": 3, "control": 3}
_VERIFICATION = "verification.parquet"
_REDRAWS = "redraws/part-*.parquet"
_RECORDS = ("erasure.json", "*/erasure.json")


def erasure(sources: Sources) -> Erasure | None:
    """What each method changed; None where nothing was erased."""
    records = {path.parent.name: read_json(path) for p in _RECORDS for path in sources.find(p)}
    said = sources.json("verification.json").get("methods", {})
    rows = _verification(sources)
    names = sorted({*said, *records})
    if not names:
        return None
    methods = tuple(_method(name, records.get(name, {}), said.get(name), rows) for name in names)
    files = (_VERIFICATION, "verification.json", _REDRAWS, *_RECORDS)
    return Erasure(sources.labels(*files), methods, _comparisons(sources))


def curves_after(sources: Sources, findings: list[Row]) -> tuple[Series, ...]:
    """For each method the rate of erased captions, and of controls, by copies of the picture."""
    copies = {row["prompt_id"]: row["n_duplicates"] for row in findings}
    binned: dict[str, dict[str, list[Row]]] = {}
    for row in _verification(sources):
        plain = row["attack"] == NO_ATTACK and row["arm"] in (*_ERASED_ARMS, "control")
        if plain and row["prompt_id"] in copies:
            label = bin_label(copies[row["prompt_id"]])
            binned.setdefault(row["method"], {}).setdefault(label, []).append(row)
    labels = sources.labels(_VERIFICATION, "findings.parquet")
    return tuple(
        Series(method, labels, tuple(_point(b, found[b]) for b in bin_labels(found)))
        for method, found in sorted(binned.items())
    )


def _verification(sources: Sources) -> list[Row]:
    path = sources.one(_VERIFICATION)
    return read_rows(path, schemas.VERIFICATION) if path else []


def _point(label: str, rows: list[Row]) -> Point:
    return Point(label, len(rows), _pooled(rows, "hits_after"))


def _pooled(rows: list[Row], hits: str) -> Rate:
    return Rate.of(sum(row[hits] for row in rows), sum(row["n"] for row in rows))


def _method(name: str, record: Row, said: Row | None, rows: list[Row]) -> Method:
    own = [row for row in rows if row["method"] == name]
    places = dict.fromkeys((row["attack"], row["arm"]) for row in own)
    ranked = sorted(places, key=lambda place: (place[0] != NO_ATTACK, place[0], _rank(place[1])))
    said = said or {}
    return Method(
        name=name,
        settings=_settings(record or said.get("mitigation") or {}),
        verdict=said.get("verdict"),
        why=str(said.get("why", "")),
        damaged=said.get("damaged"),
        damage=tuple(map(str, said.get("damage", ()))),
        oracle=bool(said.get("oracle", False)),
        attacks=tuple(map(str, said.get("attacks", ()))),
        model_sha256=said.get("model_sha256"),
        arms=tuple(_arm(*place, own) for place in ranked),
        collateral=measures(said),
        mitigated="mitigation" in said,
    )


def _arm(attack: str, arm: str, rows: list[Row]) -> Arm:
    own = [row for row in rows if (row["attack"], row["arm"]) == (attack, arm)]
    return Arm(
        arm=arm,
        attack=attack,
        captions=len(own),
        before=_pooled(own, "hits_before"),
        after=_pooled(own, "hits_after"),
        displaced=_pooled(own, "displaced_after"),
        drift=_mean(row["drift"] for row in own),
        seed_drift=_mean(row["seed_drift"] for row in own),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rank(arm: str) -> int:
    return ARMS.index(arm) if arm in ARMS else len(ARMS)


def _settings(record: Row) -> dict[str, Any]:
    """How a model was erased: plain values of erasure.json, lists by their length."""
    values = {**record, **(record.get("settings") or {})}
    values.pop("settings", None)
    plain = {
        name: f"{len(value)}" if isinstance(value, list) else value
        for name, value in values.items()
        if isinstance(value, list | str | int | float | bool)
    }
    return dict(sorted(plain.items()))


def _comparisons(sources: Sources) -> tuple[Comparison, ...]:
    """A few captions of each arm; of an erased one a seed at which the picture was drawn before."""
    redact = sources.context.config.report.redact
    by_place: dict[tuple[str, str], dict[int, dict[str, Row]]] = {}
    for row in read_parts(sources.find(_REDRAWS), schemas.REDRAWS).to_pylist():
        numbers = by_place.setdefault((row["arm"], row["caption"]), {})
        numbers.setdefault(row["number"], {})[row["method"]] = row
    shown: list[Comparison] = []
    for arm, wanted in _SHOWN_BY_ARM.items():
        captions = sorted(
            (caption for a, caption in by_place if a == arm),
            key=lambda caption: hash63("shown", caption),
        )
        chosen = [c for c in map(_clearest, (by_place[arm, c] for c in captions)) if c]
        for drawn in chosen[:wanted]:
            shown.append(_comparison(arm, drawn, redact=redact))
    return tuple(shown)


def _clearest(numbers: dict[int, dict[str, Row]]) -> dict[str, Row] | None:
    """The first number that the unedited model drew as a hit, else the first that it drew."""
    drawn = [numbers[n] for n in sorted(numbers) if BASE in numbers[n]]
    hits = [rows for rows in drawn if rows[BASE]["verdict"] in HITS]
    return next(iter([*hits, *drawn]), None)


def _comparison(arm: str, drawn: dict[str, Row], *, redact: bool) -> Comparison:
    base = drawn[BASE]
    caption = short_hash(base["caption"]) if redact else base["caption"]
    ranked = [drawn[model] for model in (BASE, *sorted(set(drawn) - {BASE}))]
    redraws = tuple(Redraw(row["method"], row["key"], row["verdict"]) for row in ranked)
    image_id = base["image_id"] if base["image_id"] is not None else base["target_group"]
    return Comparison(caption, arm, base["seed"], image_id, redraws)
