"""generate: captions in, pictures out, each with a seed of its own.

A picture's seed is a hash of the run's seed, the caption and its number, so it does not depend on
batches or workers. Pictures go to webdataset shards beside a table of how each was made.
"""

import hashlib
from typing import Any

import numpy as np

from pipeline.batches import batched
from pipeline.detection.blank import is_blank
from pipeline.generation.backend import Sampling
from pipeline.generation.seeds import hash63, image_seed
from pipeline.io import schemas
from pipeline.io.images import encode_png
from pipeline.io.shards import write_shard
from pipeline.io.tables import write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, reject_counts
from pipeline.stages.models import caption_parts, open_model
from pipeline.stages.prompts import distinct_prompts


def plan(context: Context) -> list[Part]:
    """One part a block of captions."""
    size = context.config.generate.prompts_per_part
    return caption_parts(context, distinct_prompts(context), size)


def run(part: Part, context: Context) -> Outcome:
    """Draw one block."""
    config = context.config.generate
    fingerprint = part.params["model"]
    model = open_model(context.path(part.inputs[0]), context, fingerprint)
    jobs = [
        (row, image_seed(context.config.seed, row["prompt_id"], number))
        for row in part.params["prompts"]
        for number in range(config.per_prompt)
    ]
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for batch in batched(jobs, config.batch_size):
        captions, seeds = [row["caption"] for row, _ in batch], [seed for _, seed in batch]
        pictures = model.draw(captions, seeds, sampling(context))
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


def sampling(context: Context) -> Sampling:
    """How pictures are drawn, as configured."""
    config = context.config.generate
    return Sampling(config.scheduler, config.steps, config.guidance, config.negative_prompt)


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


STAGE = Stage("generate", 2, ("model", "generate"), plan, run, tolerant=True, on_device=True)
