"""judge: after a round of drawings, which captions are open?

Found is found once the verdict says so and the hits make it all but certain; whatever else becomes
improbable is closed as well (pipeline.detection.posterior). A template may rest on drawings that
only agree with each other, and two of four do so by chance.
"""

from dataclasses import replace
from functools import partial

from pipeline.detection.posterior import MEMORIZED, NONE, posterior
from pipeline.detection.verdict import Verdict
from pipeline.io import schemas
from pipeline.io.runfolder import PROMPTS
from pipeline.io.tables import read_table, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.beliefs import belief_of, standardized_scores
from pipeline.stages.judging import Judged, judge, judging_parts
from pipeline.stages.rounds import MOST_ROUNDS, drawn_parts, round_name

_FOR_TEMPLATE = 8
"""Drawings that a template rests on at least, where so many are drawn."""


def plan(context: Context, number: int = 0) -> list[Part]:
    """Parts for the captions that round `number` drew; none after the last round."""
    if number + 1 >= len(context.config.generate.schedule):
        return []
    drawn: dict[int, None] = {}
    for path in drawn_parts(context, number):
        column = read_table(path, schemas.GENERATIONS, columns=["prompt_id"])["prompt_id"]
        drawn |= dict.fromkeys(column.unique().to_pylist())
    scores = standardized_scores(context)
    return [
        replace(part, params={**part.params, "scores": _scores_of(part, scores)})
        for part in judging_parts(context, list(drawn), prefix=f"{number}-", inputs=(PROMPTS,))
    ]


def run(part: Part, context: Context) -> Outcome:
    """Write what is known of one block."""
    belief, least = belief_of(context), context.config.generate.stop_below
    rows = []
    for item in judge(part, context):
        found = item.verdict
        kinds = posterior(
            found.n_hits,
            found.n_generated,
            belief,
            z=part.params["scores"][str(item.prompt_id)],
        )
        settled = kinds[NONE] < least and is_found(found.verdict, found.n_generated)
        rows.append(
            {
                "prompt_id": item.prompt_id,
                "n_generated": found.n_generated,
                "n_hits": found.n_hits,
                "verdict": str(found.verdict),
                "memorized": kinds[MEMORIZED],
                "open": not settled and (kinds[MEMORIZED] >= least or _doubted(item)),
            }
        )
    output = f"rounds/{part.name}.parquet"
    write_rows(context.path(output), rows, schemas.ROUNDS)
    return Outcome((output,), len(rows), len(rows))


def is_found(verdict: Verdict, n_generated: int) -> bool:
    """Whether a verdict needs no further drawings, if the hits make it all but certain."""
    return verdict is Verdict.VERBATIM or (
        verdict is Verdict.TEMPLATE and n_generated >= _FOR_TEMPLATE
    )


def _scores_of(part: Part, scores: dict[int, float]) -> dict[str, float | None]:
    """By prompt id, as text: they are keys of JSON."""
    return {str(prompt): scores.get(prompt) for prompt in part.params["prompts"]}


def _doubted(item: Judged) -> bool:
    """Some hit, or drawings that repeat each other: not to be closed as none."""
    return item.verdict.n_hits > 0 or item.verdict.clique_size * 2 > item.verdict.n_generated


STAGES = tuple(
    Stage(
        round_name("judge", number),
        2,
        ("verdict", "match", "generate"),
        partial(plan, number=number),
        run,
    )
    for number in range(MOST_ROUNDS - 1)
)
