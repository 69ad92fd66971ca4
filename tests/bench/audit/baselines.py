"""Scores of a caption that need no model: what a detector has to beat, and what detectors cost."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.config import RunConfig
from pipeline.generation.seeds import hash63
from tests.bench.audit.measures import Row, key

Values = dict[Any, float | None]

BASELINES: dict[str, Callable[[Sequence[Row]], Values]] = {
    "random": lambda rows: {key(r): float(hash63("random", *key(r))) for r in rows},
    "caption: letters": lambda rows: {key(r): float(len(r["caption"])) for r in rows},
    "caption: words": lambda rows: {key(r): float(len(r["caption"].split())) for r in rows},
    "copies of the group": lambda rows: {key(r): r["finding"].get("n_duplicates") for r in rows},
    "copies of the caption": lambda rows: {
        key(r): r["finding"].get("n_caption_copies") for r in rows
    },
}
"""By name: scores of rows by (model, prompt_id), high for memorized. One that learns from the
labels (a classifier of captions) must score each row out of its family's fold: rows have `label`,
`family` and `model`."""

_FIRST_STEP = ("noise_gap", "webster", "anisotropy")
_EVIDENCE = ("rate", "clique_size")


def forwards_of(column: str, config: RunConfig, finding: Mapping[str, Any]) -> int | None:
    """UNet forwards a prompt that a column of findings.parquet took; None where unknown."""
    first = 2 * config.screen.seeds
    if column in _FIRST_STEP:
        return first
    if column == "noise_gap_all":
        return first * config.screen.steps
    if column in _EVIDENCE:
        return 2 * config.generate.steps * int(finding.get("n_generated") or 0)
    return None
