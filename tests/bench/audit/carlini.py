"""Carlini et al. 2023 in full on some captions: 500 generations, a clique of ten.

Two generations are linked where the largest of their 16 tiles' RMS differences is below epsilon;
ten that are all linked say that the caption is memorized. The rule needs no training set. Smaller
numbers of generations are read off the same drawings: the first n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.batches import batched
from pipeline.detection.cliques import largest_clique
from pipeline.detection.tiled_l2 import pairwise_tiled_l2
from pipeline.generation.backend import DiffusionModel, Sampling
from pipeline.generation.seeds import image_seed
from pipeline.ids import hash63
from tests.bench.audit.measures import NEGATIVE, POSITIVE, Row

DRAWN = 500
CLIQUE = 10
EPSILONS = (0.05, 0.1, 0.15)
BUDGETS = (10, 15, 20, 30, 50, 100, 200, 500)
_BATCH = 50


@dataclass(frozen=True)
class Point:
    """The rule at one epsilon and number of generations: what it says of the chosen captions."""

    epsilon: float
    drawn: int
    forwards: int
    found: int
    positive: int
    false: int
    negative: int
    capped: int


def chosen(rows: Sequence[Row], wanted: int) -> list[Row]:
    """Half positive, half negative captions of one model, by hash."""
    ordered = sorted(rows, key=lambda row: hash63("carlini", row["prompt_id"]))
    halves = [[row for row in ordered if row["label"] == name] for name in (POSITIVE, NEGATIVE)]
    return [*halves[0][: wanted // 2], *halves[1][: wanted - wanted // 2]]


def draw_in_full(
    model: DiffusionModel, row: Row, how: Sampling, out: Path, drawn: int = DRAWN
) -> None:
    """Write out/drawn.npy, (drawn, h, w, 3)."""
    seeds = [image_seed(1, hash63("carlini", row["prompt_id"]), i) for i in range(drawn)]
    pictures = [model.draw([row["caption"]] * len(b), b, how) for b in batched(seeds, _BATCH)]
    np.save(out / "drawn.npy", np.concatenate(pictures), allow_pickle=False)


def points(
    rows: Sequence[Row], drawings: Sequence[npt.NDArray[np.uint8]], steps: int
) -> list[Point]:
    """The rule at every epsilon and budget, from each caption's drawings."""
    distances = [pairwise_tiled_l2(pictures) for pictures in drawings]
    found = []
    for epsilon in EPSILONS:
        for n in [n for n in BUDGETS if n <= min(map(len, drawings))]:
            cliques = [largest_clique(d[:n, :n], epsilon, cap=50_000) for d in distances]
            said = [len(clique.members) >= CLIQUE for clique in cliques]
            labels = [row["label"] for row in rows]
            hits = [label for label, yes in zip(labels, said, strict=True) if yes]
            found.append(
                Point(
                    epsilon,
                    n,
                    2 * steps * n,
                    hits.count(POSITIVE),
                    labels.count(POSITIVE),
                    hits.count(NEGATIVE),
                    labels.count(NEGATIVE),
                    sum(c.capped and not yes for c, yes in zip(cliques, said, strict=True)),
                )
            )
    return found
