"""The verdicts that disagree with the truth, to look at: a picture says who is wrong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.generation.backend import load_model
from pipeline.generation.seeds import image_seed
from pipeline.ids import hash63
from tests.bench.audit.measures import NEGATIVE, POSITIVE, Row, flagged
from tests.bench.audit.plans import Bench
from tests.bench.audit.truth import read_originals

CELL, DRAWN, MOST = 64, 8, 40


def disagreements(rows: Sequence[Row]) -> list[Row]:
    """Flagged captions that reproduce nothing, and captions that do and are not flagged."""
    return [
        row
        for row in rows
        if (row["label"] == NEGATIVE and flagged(row))
        or (row["label"] == POSITIVE and not flagged(row))
    ]


def draw_sheet(bench: Bench, rows: Sequence[Row], path: Path) -> list[str]:
    """A row a caption: its own picture, the one that the verdict names, drawings of the truth.

    Returns a line a row that says what it shows.
    """
    lines = []
    strips = []
    for row in list(rows)[:MOST]:
        originals = read_originals(bench.at("sets", bench.set_of(row["model"])))
        named = next(iter(sorted(row["found_pictures"])), None)
        shown = [originals.unit[originals.place[n]] for n in (row["picture_id"], named) if n]
        shown += [np.ones_like(shown[0])] * (2 - len(shown))
        model = load_model(bench.at("models", row["model"]))
        seeds = [image_seed(0, hash63("bench truth", row["prompt_id"]), i) for i in range(DRAWN)]
        drawn = model.draw([row["caption"]] * DRAWN, seeds, bench.how)
        pictures = [*((unit * 255).astype(np.uint8) for unit in shown), *drawn]
        strips.append(np.concatenate([_cell(picture) for picture in pictures], axis=1))
        lines.append(
            f"{row['model']}  {row['caption']!r}: {row['regime']} x {row['k']}, p {row['p']:.2f}, "
            f"{row['verdict']}, {row['finding']['n_hits']} of {row['finding']['n_generated']}"
        )
    if strips:
        Image.fromarray(np.concatenate(strips, axis=0)).save(path)
    return lines


def _cell(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.NEAREST))
