"""screen: captions in, the scalars of their first noise predictions out.

A memorized caption steers the very first steps (Wen et al. 2024): |ε(x_t, c) - ε(x_t, ∅)| is large
there. What is stored is the Gram matrix of the two predictions, a row a scored step, from which
this and other detectors (detection/gram_detectors.py) are computed without the model. The seeds
are the first of those that `generate` draws with. A late step on the same noise is scored too,
unless the configuration leaves it out.
"""

from typing import Any

import torch

from pipeline.batches import batched
from pipeline.detection.gram_detectors import LATE_STEP
from pipeline.detection.noise_gap import gram
from pipeline.detection.scored_steps import PURE_NOISE, TRAJECTORY
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.network import unit_noise
from pipeline.generation.pure_noise import pure_noise_step
from pipeline.generation.seeds import image_seed
from pipeline.generation.trajectory import ScoredStep, first_steps
from pipeline.io import schemas
from pipeline.io.runfolder import SCREEN
from pipeline.io.tables import write_rows
from pipeline.runner.merge import merge_stage
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.models import caption_parts, open_model
from pipeline.stages.prompts import distinct_prompts

_PROMPTS_PER_PART = 64


def plan(context: Context) -> list[Part]:
    """One part a block of captions."""
    return caption_parts(context, distinct_prompts(context), _PROMPTS_PER_PART)


def run(part: Part, context: Context) -> Outcome:
    """Score one block."""
    config = context.config
    model = open_model(context.path(part.inputs[0]), context, part.params["model"])
    jobs = [
        (row["prompt_id"], row["caption"], image_seed(config.seed, row["prompt_id"], number))
        for row in part.params["prompts"]
        for number in range(config.screen.seeds)
    ]
    rows: list[dict[str, Any]] = []
    for batch in batched(jobs, config.screen.batch_size):
        rows += _score(model, list(batch), context)
    output = f"screen/part-{part.name}.parquet"
    write_rows(context.path(output), rows, schemas.SCREEN)
    scored = {(row["prompt_id"], row["seed"]) for row in rows}
    return Outcome((output,), len(jobs), len(scored))


@torch.inference_mode()
def _score(
    model: DiffusionModel, jobs: list[tuple[int, str, int]], context: Context
) -> list[dict[str, Any]]:
    how, screen = context.config.generate, context.config.screen
    text = model.embed_text([caption for _, caption, _ in jobs])
    uncond = model.embed_text([how.negative_prompt]).expand_as(text)
    seeds = [seed for _, _, seed in jobs]
    steps = first_steps(
        model,
        text,
        uncond,
        model.noise(seeds),
        num_inference_steps=how.steps,
        guidance=how.guidance,
        steps=screen.steps,
    )
    rows: list[dict[str, Any]] = []
    previous: torch.Tensor | None = None
    for number, step in enumerate(steps):
        source = TRAJECTORY if number else PURE_NOISE
        rows += _rows(jobs, number, source, step, previous)
        previous = step.eps_text
    if screen.late_step:
        number, step = pure_noise_step(
            model,
            text,
            uncond,
            unit_noise(model, seeds),
            num_inference_steps=how.steps,
            step=LATE_STEP,
        )
        rows += _rows(jobs, number, PURE_NOISE, step, None) if number else []
    return rows


def _rows(
    jobs: list[tuple[int, str, int]],
    number: int,
    source: str,
    step: ScoredStep,
    previous: torch.Tensor | None,
) -> list[dict[str, Any]]:
    scalars = gram(step.eps_uncond, step.eps_text)
    change = (
        None
        if previous is None
        else (previous.cpu().double() * step.eps_text.cpu().double()).flatten(1).sum(1).tolist()
    )
    return [
        {
            "prompt_id": prompt,
            "seed": seed,
            "step": number,
            "timestep": step.timestep,
            "x_t_source": source,
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
