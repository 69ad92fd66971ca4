"""Scores of a caption that need no model: what a detector has to beat."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.detection.text_only import text_only_scores
from pipeline.ids import hash63
from tests.bench.audit.measures import PARTIAL, POSITIVE, Row, family_ids, key

Values = dict[Any, float | None]


def _text_only(rows: Sequence[Row]) -> Values:
    """Fitted within each model: a caption that one model memorized is another's control."""
    found: Values = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model and row["label"] != PARTIAL]
        labels = np.array([row["label"] == POSITIVE for row in own], bool)
        families = family_ids(own)
        if min(len(np.unique(families[labels == kind])) for kind in (True, False)) < 2:
            continue
        scores = text_only_scores([row["caption"] for row in own], labels, families)
        found |= {key(row): float(value) for row, value in zip(own, scores, strict=True)}
    return found


BASELINES: dict[str, Callable[[Sequence[Row]], Values]] = {
    "random": lambda rows: {key(r): float(hash63("random", *key(r))) for r in rows},
    "caption: letters": lambda rows: {key(r): float(len(r["caption"])) for r in rows},
    "caption: words": lambda rows: {key(r): float(len(r["caption"].split())) for r in rows},
    "copies of the group": lambda rows: {key(r): r["finding"].get("n_duplicates") for r in rows},
    "copies of the caption": lambda rows: {
        key(r): r["finding"].get("n_caption_copies") for r in rows
    },
    "caption: a classifier of its letters": _text_only,
}
"""By name: scores of rows by (model, prompt_id), high for memorized."""
