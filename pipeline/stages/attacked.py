"""What the attacks of a run found, as rows of verification.parquet and as evidence for a verdict.

Arms: `target`, the erased pictures; `unseen`, pictures never trained; `oracle`, the erased pictures
in a model that was trained without them, which is then the reference in place of `unseen`.
"""

from typing import Any

from pipeline.detection.intervals import wilson
from pipeline.erasure.conclusion import Evidence, Tally, total
from pipeline.ids import prompt_id
from pipeline.io import schemas
from pipeline.io.tables import read_parts
from pipeline.runner.part import Context
from pipeline.stages.attack import ORACLE, TARGET, UNSEEN
from pipeline.stages.redraw import BASE

Row = dict[str, Any]


class Attacked:
    """The rows of attacks/part-*.parquet."""

    def __init__(self, context: Context) -> None:
        tables = sorted(context.run.glob("attacks/part-*.parquet"))
        self._rows: list[Row] = read_parts(tables, schemas.ATTACKS).to_pylist() if tables else []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def oracle(self) -> bool:
        """Whether an oracle was attacked."""
        return any(row["method"] == ORACLE for row in self._rows)

    def evidence(self, method: str, sha256: str) -> list[Evidence]:
        """For each attack the attempts on the base and on the erased model with these weights."""
        own = [row for row in self._rows if _is_of(row, method, sha256)]
        return [
            Evidence(
                attack,
                before=self._targets(BASE, attack),
                after=_by_target(own, attack),
                reference_before=self._reference(BASE, attack),
                reference_after=self._reference(method, attack),
            )
            for attack in dict.fromkeys(row["attack"] for row in own)
        ]

    def rows(self, method: str, sha256: str) -> list[Row]:
        """Rows of verification.parquet, one a picture and attack, the oracle's too."""
        base = {_place(row): row for row in self._rows if row["method"] == BASE}
        own = [row for row in self._rows if _is_of(row, method, sha256)]
        places = {_place(row) for row in own}
        oracle = [
            row | {"arm": ORACLE}
            for row in self._rows
            if row["method"] == ORACLE and _place(row) in places
        ]
        ranked = sorted([*own, *oracle], key=lambda r: (r["attack"], r["arm"], r["subject"]))
        return [_row(row, base.get(_place(row)), method) for row in ranked]

    def _targets(self, method: str, attack: str) -> dict[int, Tally]:
        return _by_target([row for row in self._rows if row["method"] == method], attack)

    def _reference(self, method: str, attack: str) -> Tally:
        if self.oracle:
            return total(self._targets(ORACLE, attack))
        unseen = [
            Tally(row["n"], row["hits"])
            for row in self._rows
            if (row["method"], row["attack"], row["arm"]) == (method, attack, UNSEEN)
        ]
        return sum(unseen, Tally())


def _is_of(row: Row, method: str, sha256: str) -> bool:
    return bool(row["method"] == method and row["model_sha256"] == sha256)


def _by_target(rows: list[Row], attack: str) -> dict[int, Tally]:
    return {
        row["target_group"]: Tally(row["n"], row["hits"])
        for row in rows
        if row["attack"] == attack and row["arm"] == TARGET
    }


def _place(row: Row) -> tuple[str, int]:
    return row["attack"], row["subject"]


def _row(row: Row, before: Row | None, method: str) -> Row:
    n, hits = row["n"], row["hits"]
    then = before["hits"] if before else 0
    low, high = wilson(hits, n)
    return {
        "method": method,
        "attack": row["attack"],
        "arm": row["arm"],
        "target_group": row["target_group"],
        "prompt_id": prompt_id(row["caption"]),
        "caption": row["caption"],
        "n": n,
        "hits_before": then,
        "hits_after": hits,
        "displaced_after": 0,
        "rate_before": then / n,
        "rate_after": hits / n,
        "ci_low": low,
        "ci_high": high,
        "drift": None,
        "seed_drift": None,
        "model_sha256": row["model_sha256"],
    }
