"""Which captions an eraser may see, and which only the second audit sees.

A target group with several flagged captions keeps some of them back. Memorized groups that are not
erased, and controls, are halved: the eraser retains one half, the audit measures on the other
(retaining memorized captions is what spares the memorized pictures that were not to be erased).
Every choice is by hash, so that both stages make the same one from the same tables.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.ids import hash63
from pipeline.io import schemas
from pipeline.io.runfolder import FINDINGS
from pipeline.io.tables import read_rows
from pipeline.runner.part import Context

Row = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Rows of findings.parquet by their part in erasing.

    trained     captions of target groups that the eraser trains on
    held_out    captions of the same groups that it does not
    retained    captions whose behaviour the eraser preserves: memorized ones, then controls
    kept        memorized captions of groups that are not erased, and that it never sees
    controls    controls that it never sees
    """

    trained: tuple[Row, ...]
    held_out: tuple[Row, ...]
    retained: tuple[Row, ...]
    kept: tuple[Row, ...]
    controls: tuple[Row, ...]

    @property
    def groups(self) -> dict[int, tuple[Row, ...]]:
        """The trained captions by target group."""
        grouped: dict[int, list[Row]] = {}
        for row in self.trained:
            grouped.setdefault(row["group_id"], []).append(row)
        return {group: tuple(rows) for group, rows in grouped.items()}


def split_findings(context: Context) -> Split:
    """Split the findings that the configuration would have erased."""
    config, seed = context.config.erase, context.config.seed
    findings = read_rows(context.findings / FINDINGS, schemas.FINDINGS)
    flagged = [
        row for row in findings if row["verdict"] in config.verdicts and row["group_id"] is not None
    ]
    groups: dict[int, list[Row]] = {}
    for row in flagged:
        groups.setdefault(row["group_id"], []).append(row)
    order = sorted(groups, key=lambda g: hash63("target", seed, g))
    chosen = set(order[: config.max_groups])
    trained: list[Row] = []
    held_out: list[Row] = []
    for group in order:
        if group in chosen:
            rows = sorted(groups[group], key=lambda row: hash63("held", seed, row["prompt_id"]))
            back = int(len(rows) * config.held_out_captions)
            trained += rows[back:]
            held_out += rows[:back]
    spared = order[config.max_groups :] if config.max_groups else []
    seen = set(spared[: len(spared) // 2])
    others = [row for group in spared for row in groups[group]]
    controls = sorted(
        (r for r in findings if r["role"] == "control" and r["verdict"] == "none"),
        key=lambda row: hash63("retain", seed, row["prompt_id"]),
    )
    half = len(controls) // 2
    retained = [row for row in others if row["group_id"] in seen] + controls[:half]
    kept = [row for row in others if row["group_id"] not in seen]
    return Split(*map(tuple, (trained, held_out, retained, kept, controls[half:])))
