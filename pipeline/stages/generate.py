"""generate: captions in, pictures out, each with a seed of its own.

A picture's seed is a hash of the run's seed, the caption and its number, so it does not depend on
batches, rounds or workers. A model without captions draws a number of pictures. Pictures go to
webdataset shards beside a table of how each was made.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pipeline.detection.blank import is_blank
from pipeline.generation.memory import in_fitting_batches
from pipeline.generation.sampling import Sampling
from pipeline.generation.seeds import image_seed
from pipeline.ids import hash63
from pipeline.io import schemas
from pipeline.io.images import encode_png
from pipeline.io.runfolder import part_name
from pipeline.io.shards import write_shard
from pipeline.io.tables import write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, reject_counts
from pipeline.stages.models import (
    caption_parts,
    model_fingerprint,
    model_inputs,
    open_audited,
    require_sampler,
    unconditional,
)
from pipeline.stages.rounds import MOST_ROUNDS, drawn_in, round_name


def plan(context: Context, number: int = 0) -> list[Part]:
    """One part a block of the captions that round `number` draws.

    A model without captions draws all of its pictures in the first round, in blocks.
    """
    config = context.config.generate
    rounds = config.schedule
    if number >= len(rounds):
        return []
    require_sampler(context)
    if unconditional(context):
        return [] if number else _sample_parts(context)
    drawn = rounds[number]
    size = max(1, config.prompts_per_part * config.per_prompt // len(drawn))
    prefix = f"r{number}-" if number else ""
    return [
        replace(part, name=prefix + part.name, params={**part.params, "numbers": list(drawn)})
        for part in caption_parts(context, drawn_in(context, number), size)
    ]


def run(part: Part, context: Context) -> Outcome:
    """Draw one block."""
    config = context.config.generate
    fingerprint = part.params["model"]
    model = open_audited(part, context)
    jobs = _jobs(part, context)
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []

    def draw(batch: Sequence[tuple[dict[str, Any], int]]) -> np.ndarray:
        captions, seeds = [row["caption"] for row, _ in batch], [seed for _, seed in batch]
        return model.draw(captions, seeds, sampling(context))

    for batch, pictures in in_fitting_batches(jobs, config.batch_size, draw):
        blank = is_blank(pictures)
        for (prompt, seed), picture, empty in zip(batch, pictures, blank, strict=True):
            row, sample = _record(prompt, seed, picture, bool(empty), fingerprint, context)
            rows.append(row)
            samples.append(sample)
    outputs = (f"generations/{part.name}.tar", f"generations/{part.name}.parquet")
    write_shard(context.path(outputs[0]), samples)
    write_rows(context.path(outputs[1]), rows, schemas.GENERATIONS)
    rejected = reject_counts([row["reason"] for row in rows if row["status"] != "ok"])
    return Outcome(outputs, len(jobs), len(rows) - sum(rejected.values()), rejected)


def _sample_parts(context: Context) -> list[Part]:
    config = context.config.generate
    files, weights = model_inputs(context), model_fingerprint(context)
    size = config.prompts_per_part * config.per_prompt
    return [
        Part(
            part_name(number),
            files,
            {
                "prompts": [],
                "model": weights,
                "samples": [start, min(start + size, config.samples)],
            },
        )
        for number, start in enumerate(range(0, config.samples, size))
    ]


def _jobs(part: Part, context: Context) -> list[tuple[dict[str, Any], int]]:
    """A caption and a seed a picture; the pictures of a model without captions share one id."""
    seed = context.config.seed
    if "samples" in part.params:
        nothing = {"prompt_id": None, "caption": ""}
        numbers = range(*part.params["samples"])
        return [(nothing, image_seed(seed, hash63("sample"), number)) for number in numbers]
    return [
        (row, image_seed(seed, row["prompt_id"], number))
        for row in part.params["prompts"]
        for number in part.params["numbers"]
    ]


def sampling(context: Context) -> Sampling:
    """How pictures are drawn, as configured."""
    config = context.config.generate
    return Sampling(
        scheduler=config.scheduler,
        steps=config.steps,
        guidance=config.guidance,
        negative_prompt=config.negative_prompt,
        true_cfg=config.true_cfg,
    )


def _record(
    prompt: dict[str, Any],
    seed: int,
    picture: np.ndarray,
    blank: bool,
    fingerprint: str,
    context: Context,
) -> tuple[dict[str, Any], dict[str, Any]]:
    how = sampling(context)
    generation_id = hash63("generation", prompt["prompt_id"], seed, how, fingerprint)
    data = encode_png(picture)
    key = f"{generation_id:016x}"
    row = {
        "generation_id": generation_id,
        "key": key,
        "prompt_id": prompt["prompt_id"],
        "seed": seed,
        "scheduler": how.scheduler,
        "num_inference_steps": how.steps,
        "guidance_scale": how.guidance,
        "negative_prompt": how.negative_prompt,
        "model_fingerprint": fingerprint,
        "sha256": hashlib.sha256(data).hexdigest(),
        "status": "rejected" if blank else "ok",
        "reason": "blank" if blank else "",
    }
    return row, {"__key__": key, "png": data, "txt": prompt["caption"].encode()}


STAGES = tuple(
    Stage(
        round_name("generate", number),
        2,
        ("model", "generate"),
        partial(plan, number=number),
        run,
        tolerant=True,
        on_device=True,
    )
    for number in range(MOST_ROUNDS)
)
STAGE = STAGES[0]
