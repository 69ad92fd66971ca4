"""answer: what was asked, and everything that was drawn, in; one row an asked image out.

An image counts as memorized if its duplicate group does: copies of one picture cannot be told
apart by what a model draws.
"""

from collections import Counter
from typing import Any

from pipeline.detection.intervals import wilson
from pipeline.detection.verdict import HITS, Verdict
from pipeline.io import schemas
from pipeline.io.runfolder import (
    ASKED,
    DUPLICATES,
    FINDINGS,
    IMAGES_ASKED,
    PROMPTS,
    VERDICTS,
    current_groups,
)
from pipeline.io.tables import read_rows, read_table, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, relative

Row = dict[str, Any]


def plan(context: Context) -> list[Part]:
    """One part."""
    train = relative(context.train / DUPLICATES, context.run)
    return [Part("all", (ASKED, PROMPTS, FINDINGS, VERDICTS, train))]


def run(part: Part, context: Context) -> Outcome:
    """Answer each row."""
    del part
    asked = read_rows(context.path(ASKED), schemas.ASKED)
    answers = _Answers(context, {row["group_id"] for row in asked} - {None})
    rows = [row | (answers.of(row["group_id"]) if row["found"] else {}) for row in asked]
    write_rows(context.path(IMAGES_ASKED), rows, schemas.IMAGES_ASKED)
    return Outcome((IMAGES_ASKED,), len(rows), len(rows))


class _Answers:
    """What is known of each group: its captions, and the generations that show it."""

    def __init__(self, context: Context, groups: set[int]) -> None:
        self._findings = {
            row["prompt_id"]: row for row in read_rows(context.path(FINDINGS), schemas.FINDINGS)
        }
        self._own: dict[int, set[int]] = {}
        columns = ["group_id", "prompt_id"]
        for row in read_rows(context.path(PROMPTS), schemas.PROMPTS, columns=columns):
            if row["group_id"] in groups:
                self._own.setdefault(row["group_id"], set()).add(row["prompt_id"])
        self._hits: dict[int, list[Row]] = {}
        for row in read_rows(context.path(VERDICTS), schemas.VERDICTS):
            if row["group_id"] in groups and row["verdict"] in HITS:
                self._hits.setdefault(row["group_id"], []).append(row)
        table = read_table(context.train / DUPLICATES, schemas.DUPLICATES)
        sizes = Counter(current_groups(table).tolist())
        self._sizes = {group: sizes[group] for group in groups}

    def of(self, group: int) -> Row:
        """The columns of images_asked.parquet that depend on the group."""
        own = self._own.get(group, set()) & self._findings.keys()
        hits = self._hits.get(group, [])
        by_caption = Counter(row["prompt_id"] for row in hits if row["prompt_id"] is not None)
        drawing = sorted(by_caption, key=lambda prompt: (-by_caption[prompt], prompt))
        generated = sum(self._findings[prompt]["n_generated"] for prompt in own)
        of_own = sum(by_caption[prompt] for prompt in own)
        low, high = wilson(of_own, generated)
        best = min(hits, key=_clearness, default={})
        return {
            "n_duplicates": self._sizes[group],
            "n_captions": len(own),
            "captions": [self._findings[prompt]["caption"] for prompt in drawing],
            "verdict": self._verdict(own, hits),
            "n_generated": generated,
            "n_hits": of_own,
            "n_hits_elsewhere": len(hits) - of_own,
            "rate": of_own / generated if generated else None,
            "ci_low": low,
            "ci_high": high,
            "generation_id": best.get("generation_id"),
            "seed": best.get("seed"),
            **{name: best.get(name) for name in schemas.DISTANCES},
        }

    def _verdict(self, own: set[int], hits: list[Row]) -> str | None:
        """The strongest of the captions that draw it; None where nothing was drawn for it."""
        said = set()
        for hit in hits:
            caption = self._findings.get(hit["prompt_id"])  # one drawing of a caption may err
            sure = caption is None or caption["verdict"] in HITS
            said.add(hit["verdict"] if sure else str(Verdict.UNDECIDED))
        said |= {self._findings[p]["verdict"] for p in own} & {str(Verdict.UNDECIDED)}
        for verdict in (*HITS, Verdict.UNDECIDED):
            if verdict in said:
                return str(verdict)
        return str(Verdict.NONE) if own else None


def _clearness(hit: Row) -> tuple[Any, ...]:
    return HITS.index(Verdict(hit["verdict"])), hit["tiled_l2"], hit["generation_id"]


STAGE = Stage("answer", 1, ("prompts", "train"), plan, run)
