"""screen: captions in, the scalars of their first noise predictions out.

A memorized caption steers the very first steps (Wen et al. 2024): |ε(x_t, c) - ε(x_t, ∅)| is large
there. What is stored is the Gram matrix of the two predictions, a row a scored step, from which
this and other detectors (detection/gram_detectors.py) are computed without the model. The seeds
are the first of those that `generate` draws with. A late step on the same noise is scored too,
unless the configuration leaves it out.

For a flow model the scalars are those of its velocity v, as `predicts` says: its noise is x_t at
the first step whatever the caption (pipeline.generation.predictions). A model without captions has
nothing to compare, and no part.
"""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.detection.gram_detectors import LATE_STEP
from pipeline.detection.noise_gap import gram
from pipeline.detection.scored_steps import PURE_NOISE, TRAJECTORY
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.memory import in_fitting_batches
from pipeline.generation.pure_noise import pure_noise_step
from pipeline.generation.seeds import image_seed
from pipeline.generation.trajectory import ScoredStep, first_steps
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
    n_scored = len({(row["prompt_id"], row["seed"]) for row in rows})
    return Outcome((output,), len(jobs), n_scored)


@torch.inference_mode()
def _score(
    model: DiffusionModel, jobs: Sequence[tuple[int, str, int]], context: Context
) -> list[dict[str, Any]]:
    how, screen = sampling(context), context.config.screen
    text = model.conditions([caption for _, caption, _ in jobs], guidance=how.guidance)
    uncond = model.unconditioned(how.negative_prompt, guidance=how.guidance)
    noise = model.noise([seed for _, _, seed in jobs])
    steps = first_steps(
        model,
        text,
        uncond,
        noise,
        num_inference_steps=how.steps,
        guidance=model.guidance_weight(how),
        steps=screen.steps,
    )
    rows: list[dict[str, Any]] = []
    previous: torch.Tensor | None = None
    for number, step in enumerate(steps):
        source = TRAJECTORY if number else PURE_NOISE
        predicted = _predicted(step, model)
        rows += _rows(jobs, (number, step.timestep, source), predicted, previous)
        previous = predicted[1]
    if screen.late_step:
        number, step = pure_noise_step(
            model, text, uncond, noise, num_inference_steps=how.steps, step=LATE_STEP
        )
        at = (number, step.timestep, PURE_NOISE)
        rows += _rows(jobs, at, _predicted(step, model), None) if number else []
    for row in rows:
        row["predicts"] = "velocity" if model.flows else "noise"
    return rows


def _predicted(step: ScoredStep, model: DiffusionModel) -> tuple[torch.Tensor, torch.Tensor]:
    """What is compared: noise, or a flow model's velocity, without and with the caption."""
    if model.flows:
        return step.raw_uncond, step.raw_text
    return step.eps_uncond, step.eps_text


def _rows(
    jobs: Sequence[tuple[int, str, int]],
    at: tuple[int, int, str],
    predicted: tuple[torch.Tensor, torch.Tensor],
    previous: torch.Tensor | None,
) -> list[dict[str, Any]]:
    scalars = gram(*predicted)
    change = (
        None
        if previous is None
        else (previous.cpu().double() * predicted[1].cpu().double()).flatten(1).sum(1).tolist()
    )
    return [
        {
            "prompt_id": prompt,
            "seed": seed,
            "step": at[0],
            "timestep": at[1],
            "x_t_source": at[2],
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
