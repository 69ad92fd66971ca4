"""redraw: the base model and each erased one draw the same captions with the same fresh seeds.

Seeds are others than the audit's and than the eraser's. Every picture is compared with all training
pictures, not with the erased one alone: a caption that no longer draws its own picture may draw
another one. Arms:

    trained    captions that the eraser trained on
    held_out   captions of the same pictures that it did not
    kept       memorized captions that were not to be erased
    control    captions of pictures seen once, which the eraser did not see
    empty      the empty prompt, which draws memorized pictures unasked

Mitigations are drawn with, too: as methods whose weights are the base model's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from pipeline.batches import batched
from pipeline.detection.verdict import judge_generation, leaning
from pipeline.errors import ConfigError
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.memory import in_fitting_batches
from pipeline.generation.seeds import image_seed
from pipeline.ids import hash63, prompt_id
from pipeline.io import schemas
from pipeline.io.digest import sha256_once
from pipeline.io.images import encode_png
from pipeline.io.runfolder import DUPLICATES, FINDINGS, part_name
from pipeline.io.shards import write_shard
from pipeline.io.tables import write_rows
from pipeline.mitigation.drawing import draw_mitigated
from pipeline.mitigation.options import Mitigation, TransitionOptions, label
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.beliefs import with_calibration
from pipeline.stages.drawn import Seen, seen_in
from pipeline.stages.gallery import open_gallery
from pipeline.stages.generate import sampling
from pipeline.stages.judging import limits_of
from pipeline.stages.models import (
    model_fingerprint,
    model_inputs,
    open_audited,
    open_model,
)
from pipeline.stages.split import split_findings

BASE = "base"
_MITIGATION: TypeAdapter[Mitigation] = TypeAdapter(Mitigation)
_JOBS_PER_PART = 256
Row = dict[str, Any]


@dataclass(frozen=True)
class _Job:
    arm: str
    caption: str
    target_group: int | None
    number: int

    def seed(self, run_seed: int) -> int:
        return image_seed(run_seed, hash63("verify", prompt_id(self.caption)), self.number)


def erased_models(context: Context) -> dict[str, Path]:
    """Each erased model by its method's name; `erased` may name one model or their folder."""
    folder = context.config.erased or context.run / "erased"
    if (folder / "erasure.json").is_file():
        return {folder.name: folder}
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/erasure.json"))}


@dataclass(frozen=True)
class Compared:
    """The base model or an erased one: its fingerprint, and its files as inputs of a part."""

    method: str
    weights: str
    files: tuple[str, ...]


def compared_models(context: Context) -> list[Compared]:
    """The base model and each erased one; none where nothing was erased."""
    models = erased_models(context)
    if not models:
        return []
    return [_base(BASE, context)] + [
        Compared(method, sha256_once(folder), (relative(folder, context.run),))
        for method, folder in models.items()
    ]


def _base(method: str, context: Context) -> Compared:
    """The base model, which alone a LoRA of the configuration adapts."""
    return Compared(method, model_fingerprint(context), model_inputs(context))


def open_compared(part: Part, context: Context) -> DiffusionModel:
    """The model that `part` names: its first input, with params `method` and `model`."""
    if part.params["method"] == BASE or part.params.get("mitigation") is not None:
        return open_audited(part, context)
    return open_model(context.path(part.inputs[0]), context, part.params["model"])


def mitigations(context: Context) -> dict[str, Mitigation]:
    """The ways to draw from the base model by their names; ConfigError for one of a model's."""
    named = {label(options): options for options in context.config.verify.mitigations}
    if taken := sorted(set(named) & set(erased_models(context))):
        raise ConfigError(f"verify.mitigations: {taken[0]} is an erased model; give it a name")
    return named


def plan(context: Context) -> list[Part]:
    """For each model, and way to draw, one part a block of drawings; none without any of them."""
    models, ways = compared_models(context), mitigations(context)
    if not models and not ways:
        return []
    _check(ways, context)
    jobs = _jobs(context)
    shared = (
        relative(context.findings / FINDINGS, context.run),
        relative(context.train / DUPLICATES, context.run),
    )
    parts = []
    models = (models or [_base(BASE, context)]) + [_base(name, context) for name in ways]
    for model in models:
        for number, block in enumerate(batched(jobs, _JOBS_PER_PART)):
            params: dict[str, Any] = {
                "method": model.method,
                "model": model.weights,
                "jobs": [[job.arm, job.caption, job.target_group, job.number] for job in block],
            }
            if model.method in ways:
                params["mitigation"] = ways[model.method].model_dump(mode="json")
            name = f"{model.method}-{part_name(number)}"
            parts.append(Part(name, (*model.files, *shared), params))
    return with_calibration(parts, context)


def run(part: Part, context: Context) -> Outcome:
    """Draw one block with one model and judge each picture."""
    jobs = [_Job(*values) for values in part.params["jobs"]]
    mitigation = part.params.get("mitigation")
    model = open_compared(part, context)
    options = None if mitigation is None else _MITIGATION.validate_python(mitigation)
    others = [] if options is None else _others(context)
    gallery = open_gallery(context)
    rows: list[Row] = []
    samples: list[Row] = []

    def draw(batch: Sequence[_Job]) -> np.ndarray:
        seeds, how = [job.seed(context.config.seed) for job in batch], sampling(context)
        captions = [job.caption for job in batch]
        if options is None:
            return model.draw(captions, seeds, how)
        return draw_mitigated(model, captions, seeds, how, options, others=others)

    for batch, pictures in in_fitting_batches(jobs, context.config.generate.batch_size, draw):
        for job, picture, seen in zip(batch, pictures, seen_in(pictures, gallery), strict=True):
            row = _judge(job, part.params["method"], seen, context)
            rows.append(row | {"group_id": gallery.group_of.get(row["image_id"])})
            samples.append({"__key__": row["key"], "png": encode_png(picture)})
    outputs = (f"redraws/{part.name}.tar", f"redraws/part-{part.name}.parquet")
    write_shard(context.path(outputs[0]), samples)
    write_rows(context.path(outputs[1]), rows, schemas.REDRAWS)
    return Outcome(outputs, len(jobs), len(rows))


def _check(ways: Mapping[str, Mitigation], context: Context) -> None:
    """Raise ConfigError, before anything is drawn, for what cannot be drawn so."""
    for name, options in ways.items():
        if isinstance(options, TransitionOptions) and context.config.generate.guidance <= 1:
            raise ConfigError(f"verify.mitigations: {name} needs generate.guidance above 1")
        words = getattr(options, "words", None)
        if words == "captions" and not _others(context):
            raise ConfigError(
                f"verify.mitigations: {name} has no captions of controls to draw from"
            )


def _others(context: Context) -> list[str]:
    """Captions of which none is drawn here."""
    rows = split_findings(context).retained
    return [row["caption"] for row in rows if row["role"] == "control"]


def _jobs(context: Context) -> list[_Job]:
    split, config = split_findings(context), context.config.verify
    arms = (
        ("trained", split.trained, config.per_prompt),
        ("held_out", split.held_out, config.per_prompt),
        ("kept", split.kept[: config.others], config.per_other),
        ("control", split.controls[: config.others], config.per_other),
    )
    jobs = [
        _Job(arm, row["caption"], row["group_id"], number)
        for arm, rows, count in arms
        for row in rows
        for number in range(count)
    ]
    return jobs + [_Job("empty", "", None, number) for number in range(config.empty_prompt)]


def _judge(job: _Job, method: str, seen: Seen, context: Context) -> Row:
    seed = job.seed(context.config.seed)
    redraw_id = hash63("redraw", method, job.arm, job.caption, seed)
    evidence, matches = seen
    limits = limits_of(context)
    judged, leans_to = judge_generation(evidence, limits), leaning(evidence, limits)
    nearest = next(iter(matches), {})
    shown = next((row for row in matches if row["image_id"] == judged.image_id), nearest)
    return {
        "redraw_id": redraw_id,
        "key": f"{redraw_id:016x}",
        "method": method,
        "prompt_id": prompt_id(job.caption),
        "caption": job.caption,
        "arm": job.arm,
        "target_group": job.target_group,
        "number": job.number,
        "seed": seed,
        "image_id": judged.image_id,
        "verdict": str(judged.verdict),
        "leaning_group": None if leans_to is None else leans_to.group_id,
        **{name: shown.get(name) for name in schemas.DISTANCES},
    }


STAGE = Stage(  # of `verify` all that matters is in the jobs, so that attacks may change alone
    "redraw",
    3,
    ("erase", "generate", "match", "verdict", "embed", "train", "findings", "erased"),
    plan,
    run,
    on_device=True,
)
