"""screen: captions in, the scalars of their first noise predictions out.

A memorized caption steers the very first steps (Wen et al. 2024): |ε(x_t, c) - ε(x_t, ∅)| is large
there. What is stored is the Gram matrix of the two predictions, a row a scored step, from which
this and other detectors are computed without the model. The seeds are the first of those that
`generate` draws with.

For a flow model the scalars are those of its velocity v, as `predicts` says: its noise is x_t at
the first step whatever the caption (pipeline.generation.predictions). A model without captions has
nothing to compare, and no part.
"""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.detection.noise_gap import gram
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.memory import in_fitting_batches
from pipeline.generation.seeds import image_seed
from pipeline.generation.trajectory import first_steps
from pipeline.io import schemas
from pipeline.io.runfolder import SCREEN
from pipeline.io.tables import write_rows
from pipeline.runner.merge import merge_stage
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.generate import sampling
from pipeline.stages.models import caption_parts, open_audited, unconditional
from pipeline.stages.prompts import distinct_prompts

_PROMPTS_PER_PART = 64


def plan(context: Context) -> list[Part]:
    """One part a block of captions."""
    if unconditional(context):
        return []
    return caption_parts(context, distinct_prompts(context), _PROMPTS_PER_PART)


def run(part: Part, context: Context) -> Outcome:
    """Score one block."""
    config = context.config
    model = open_audited(part, context)
    jobs = [
        (row["prompt_id"], row["caption"], image_seed(config.seed, row["prompt_id"], number))
        for row in part.params["prompts"]
        for number in range(config.screen.seeds)
    ]
    rows: list[dict[str, Any]] = []
    size = config.screen.batch_size
    for _, scored in in_fitting_batches(jobs, size, lambda batch: _score(model, batch, context)):
        rows += scored
    place = {(prompt, seed): number for number, (prompt, _, seed) in enumerate(jobs)}
    rows.sort(key=lambda row: place[row["prompt_id"], row["seed"]])  # whatever the batches were
    output = f"screen/part-{part.name}.parquet"
    write_rows(context.path(output), rows, schemas.SCREEN)
    return Outcome((output,), len(rows), len(rows))


@torch.inference_mode()
def _score(
    model: DiffusionModel, jobs: Sequence[tuple[int, str, int]], context: Context
) -> list[dict[str, Any]]:
    how = sampling(context)
    steps = first_steps(
        model,
        model.conditions([caption for _, caption, _ in jobs], guidance=how.guidance),
        model.unconditioned(how.negative_prompt, guidance=how.guidance),
        model.noise([seed for _, _, seed in jobs]),
        num_inference_steps=how.steps,
        guidance=model.guidance_weight(how),
        steps=context.config.screen.steps,
    )
    rows: list[dict[str, Any]] = []
    previous: torch.Tensor | None = None
    for step in steps:
        uncond, text = step.eps_uncond, step.eps_text
        if model.flows:
            uncond, text = step.raw_uncond, step.raw_text
        for row in _rows(jobs, step.timestep, uncond, text, previous):
            rows.append(row | {"predicts": "velocity" if model.flows else "noise"})
        previous = text
    return rows


def _rows(
    jobs: Sequence[tuple[int, str, int]],
    timestep: int,
    uncond: torch.Tensor,
    text: torch.Tensor,
    previous: torch.Tensor | None,
) -> list[dict[str, Any]]:
    scalars = gram(uncond, text)
    change = (
        None if previous is None else (previous.double() * text.double()).flatten(1).sum(1).tolist()
    )
    return [
        {
            "prompt_id": prompt,
            "seed": seed,
            "timestep": timestep,
            "x_t_source": "pure_noise" if previous is None else "trajectory",
            "dim": int(scalars.dim[i]),
            "eps_uncond_sq": float(scalars.eps_uncond_sq[i]),
            "eps_text_sq": float(scalars.eps_text_sq[i]),
            "eps_dot": float(scalars.eps_dot[i]),
            "eps_dot_prev": None if change is None else float(change[i]),
            "cos_channel_mean": float(scalars.cos_channel_mean[i]),
        }
        for i, (prompt, _, seed) in enumerate(jobs)
    ]


STAGE = Stage(
    "screen", 2, ("model", "generate", "screen"), plan, run, tolerant=True, on_device=True
)
TABLE = merge_stage("screen-table", "screen/part-*.parquet", SCREEN, schemas.SCREEN)
