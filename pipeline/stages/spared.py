"""What the tables of a run say of what was to stay: losses, drawings' descriptors, nearness.

Every measure is of an erased model beside the base model, on the same pictures, captions and seeds;
the loss on erased pictures beside the oracle's, too.
Captions are near, mid and far by thirds of the cosine of their picture to the nearest erased one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.detection.bootstrap import Estimate, mean_ratio
from pipeline.detection.kid import Distance, distance
from pipeline.erasure.damage import Collateral, Drift, Level, Loss, kid_status, loss_status
from pipeline.ids import hash63
from pipeline.io import schemas
from pipeline.io.runfolder import NEARNESS
from pipeline.io.tables import read_parts, read_rows
from pipeline.runner.part import Context
from pipeline.stages.attack import ORACLE
from pipeline.stages.collateral import TARGET
from pipeline.stages.describe import ARMS
from pipeline.stages.redraw import BASE

TABLES = ("collateral/part-*.parquet", "described/part-*.parquet", NEARNESS)
_THIRDS = ("far", "mid", "near")
_MOST_DRAWINGS = 1024  # KID takes 100 bytes for each pair of them
Row = dict[str, Any]


class _Place(NamedTuple):
    """A drawing: of which picture, or caption where there is none, by which caption and number."""

    unit: int
    caption: str
    number: int


class Spared:
    """The tables of `collateral`, `describe` and `nearness`; those that are not there are empty."""

    def __init__(self, context: Context) -> None:
        collateral, described = (sorted(context.run.glob(pattern)) for pattern in TABLES[:2])
        self._losses: dict[str, dict[str, dict[int, dict[int, float]]]] = {}
        for row in read_parts(collateral, schemas.COLLATERAL).to_pylist():
            subset = self._losses.setdefault(row["method"], {}).setdefault(row["subset"], {})
            subset.setdefault(row["picture_id"], {})[row["timestep"]] = row["loss"]
        self._described = read_parts(described, schemas.DESCRIBED)
        near = context.path(NEARNESS)
        rows = read_rows(near, schemas.NEARNESS) if near.is_file() else []
        self._near = {row["group_id"]: row["similarity"] for row in rows}

    def collateral(self, method: str, rows: Sequence[Row]) -> Collateral:
        """All measures of a method; `rows` are its rows of verification.parquet."""
        controls = [row for row in rows if row["arm"] == "control"]
        beside = self._loss(method, ORACLE).get(TARGET)
        drift = self._drift(controls)
        return Collateral(self._loss(method, BASE), self._kid(method), drift, beside)

    def _loss(self, method: str, other: str) -> dict[str, Loss]:
        before, after = self._losses.get(other, {}), self._losses.get(method, {})
        found = {}
        for subset in sorted(before.keys() & after.keys()):
            pictures = sorted(before[subset].keys() & after[subset].keys())
            if pictures:
                found[subset] = _compare(before[subset], after[subset], pictures)
        return found

    def _kid(self, method: str) -> dict[str, Distance]:
        found = {}
        for arm in ARMS:
            before, after = (self._vectors(name, arm) for name in (BASE, method))
            places = _few_enough(before.keys() & after.keys())
            _, units = np.unique([place.unit for place in places], return_inverse=True)
            if len(set(units.tolist())) < 2:
                continue
            then, now = (np.stack([own[place] for place in places]) for own in (before, after))
            found[arm] = distance(then, now, units)
        return found

    def _vectors(self, method: str, arm: str) -> dict[_Place, Any]:
        """Descriptors of length √d by the drawing's place."""
        chosen = pc.and_(
            pc.equal(self._described["method"], method), pc.equal(self._described["arm"], arm)
        )
        table: pa.Table = self._described.filter(chosen)
        if not table.num_rows:
            return {}
        flat = pc.list_flatten(table["vector"]).to_numpy()
        vectors = flat.reshape(table.num_rows, -1).astype(np.float64) * np.sqrt(
            len(flat) / table.num_rows
        )
        columns = (table[name].to_pylist() for name in ("caption", "target_group", "number"))
        places = (
            _Place(hash63("caption", caption) if group is None else group, caption, number)
            for caption, group, number in zip(*columns, strict=True)
        )
        return dict(zip(places, vectors, strict=True))

    def _drift(self, rows: Iterable[Row]) -> dict[str, Drift]:
        known = [r for r in rows if r["seed_drift"] is not None and r["target_group"] in self._near]
        known.sort(key=lambda row: (self._near[row["target_group"]], row["caption"]))
        if len(known) < len(_THIRDS):
            return {}
        found = {}
        for name, places in zip(
            _THIRDS, np.array_split(np.arange(len(known)), len(_THIRDS)), strict=True
        ):
            some = [known[place] for place in places]
            drift, seeds = (np.array([r[c] for r in some]) for c in ("drift", "seed_drift"))
            cosines = [self._near[row["target_group"]] for row in some]
            found[name] = Drift(mean_ratio(drift, seeds), (min(cosines), max(cosines)))
        return found


def as_json(collateral: Collateral, max_loss_change: float) -> Row:
    """The measures as plain values; changes of the loss are ratios less 1."""
    return {
        "loss": {
            subset: {**_of_loss(loss), "status": _status(subset, loss, max_loss_change)}
            for subset, loss in collateral.loss.items()
        },
        "oracle": _of_loss(collateral.oracle) if collateral.oracle else None,
        "kid": {
            arm: {
                "pictures": found.kid.n,
                "drawings": found.drawings,
                "kid": found.kid.value,
                "interval": found.kid.interval,
                "floor": found.floor,
                "status": kid_status(found),
            }
            for arm, found in collateral.kid.items()
        },
        "drift": {
            third: {
                "captions": found.ratio.n if found.ratio else 0,
                "ratio": found.ratio.value if found.ratio else None,
                "interval": found.ratio.interval if found.ratio else None,
                "similarity": found.similarity,
            }
            for third, found in collateral.drift.items()
        },
    }


def _of_loss(loss: Loss) -> Row:
    return {
        **_change(loss.ratio, "pictures"),
        "levels": [
            {
                "timestep": level.timestep,
                "before": level.before,
                "after": level.after,
                **_change(level.ratio, "pictures"),
            }
            for level in loss.levels
        ],
    }


def _status(subset: str, loss: Loss, max_loss_change: float) -> str | None:
    """None of erased pictures, whose loss is to rise."""
    if subset == TARGET or loss.ratio is None:
        return None
    return loss_status(loss.ratio, max_loss_change)


def _change(ratio: Estimate | None, units: str) -> Row:
    if ratio is None:
        return {units: 0, "change": None, "interval": None}
    interval = ratio.interval
    shown = None if interval is None else (interval[0] - 1, interval[1] - 1)
    return {units: ratio.n, "change": ratio.value - 1, "interval": shown}


def _compare(
    before: Mapping[int, Mapping[int, float]],
    after: Mapping[int, Mapping[int, float]],
    pictures: Sequence[int],
) -> Loss:
    """Losses by picture and time step of two models."""
    timesteps = sorted(before[pictures[0]])
    then, now = (
        np.array([[own[picture][t] for picture in pictures] for t in timesteps])
        for own in (before, after)
    )
    levels = [
        Level(t, float(b.mean()), float(a.mean()), mean_ratio(a, b))
        for t, a, b in zip(timesteps, now, then, strict=True)
    ]
    return Loss(mean_ratio(now, then), tuple(levels))


def _few_enough(places: Iterable[_Place]) -> list[_Place]:
    """Drawings of whole captions, chosen by hash, until there are as many as KID can take."""
    by_caption: dict[str, list[_Place]] = {}
    for place in sorted(places):
        by_caption.setdefault(place.caption, []).append(place)
    chosen: list[_Place] = []
    for caption in sorted(by_caption, key=lambda text: (hash63("kid", text), text)):
        if len(chosen) + len(by_caption[caption]) <= _MOST_DRAWINGS:
            chosen += by_caption[caption]
    return sorted(chosen)
