"""Which captions are drawn in a round, and how many pictures of each.

Pictures are drawn a few at a time. After each round but the last, `judge` writes what is known of
every caption that was drawn; a caption stays open until its verdict is clear or memorization has
become improbable (pipeline.detection.posterior). A budget of UNet forwards goes to the captions
that are most probably memorized.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.detection.posterior import MEMORIZED, posterior
from pipeline.io import schemas
from pipeline.io.runfolder import SCREEN
from pipeline.io.tables import read_parts, read_table
from pipeline.runner.part import Context
from pipeline.stages.beliefs import belief_of, standardized_scores
from pipeline.stages.prompts import distinct_prompts

MOST_ROUNDS = 5

Row = dict[str, Any]


def round_name(stage: str, number: int) -> str:
    """What a stage is called in a round: generate, generate-2, generate-3 ..."""
    return f"{stage}-{number + 1}" if number else stage


def drawn_parts(context: Context, number: int) -> list[Path]:
    """The tables of the pictures that round `number` drew."""
    pattern = f"r{number}-*.parquet" if number else "[0-9]*.parquet"
    return sorted((context.run / "generations").glob(pattern))


def drawn_in(context: Context, number: int) -> list[Row]:
    """The captions that round `number`, from 0, draws: prompt_id and caption, by rank."""
    rounds = context.config.generate.schedule
    if number >= len(rounds):
        return []
    prompts = distinct_prompts(context)
    known = known_before(context, number)
    scores = standardized_scores(context)
    memorized = {
        row["prompt_id"]: known[row["prompt_id"]]["memorized"]
        if row["prompt_id"] in known
        else _before_drawing(context, scores.get(row["prompt_id"]))
        for row in prompts
    }
    least = context.config.generate.stop_below
    going_on = [
        row
        for row in prompts
        if (known[row["prompt_id"]]["open"] if number else memorized[row["prompt_id"]] >= least)
    ]
    return _affordable(context, going_on, memorized, known, len(rounds[number]))


def known_before(context: Context, number: int) -> dict[int, Row]:
    """The latest row of each caption judged before round `number`; for the first round none.

    A caption that was left out of an earlier round is closed.
    """
    known: dict[int, Row] = {}
    for earlier in range(number):
        rows = read_parts(sorted(context.run.glob(f"rounds/{earlier}-*.parquet")), schemas.ROUNDS)
        for row in known.values():
            row["open"] = False
        known |= {row["prompt_id"]: row for row in rows.to_pylist()}
    if number:
        closed = {"open": False, "memorized": 0.0, "n_generated": 0}
        known = {row["prompt_id"]: closed for row in distinct_prompts(context)} | known
    return known


def _before_drawing(context: Context, z: float | None) -> float:
    return posterior(0, 0, belief_of(context), z=z)[MEMORIZED]


def _affordable(
    context: Context,
    rows: list[Row],
    memorized: Mapping[int, float],
    known: Mapping[int, Row],
    pictures: int,
) -> list[Row]:
    """As many of `rows` as the budget pays for, the most probably memorized first."""
    config = context.config.generate
    if config.max_forwards is None:
        return rows
    spent = sum(row["n_generated"] for row in known.values()) * 2 * config.steps
    spent += 2 * _screened_steps(context)
    count = max(0, config.max_forwards - spent) // (2 * config.steps * pictures)
    order = {row["prompt_id"]: place for place, row in enumerate(rows)}
    chosen = sorted(order, key=lambda prompt: (-round(memorized[prompt], 6), order[prompt]))
    allowed = set(chosen[:count])
    return [row for row in rows if row["prompt_id"] in allowed]


def _screened_steps(context: Context) -> int:
    path = context.path(SCREEN)
    return read_table(path, schemas.SCREEN, columns=["prompt_id"]).num_rows if path.is_file() else 0
