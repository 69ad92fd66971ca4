"""erase: findings in, for each method a model that was taught not to draw them out."""

from dataclasses import replace

import numpy as np
import torch

from pipeline.config import EraseMethod
from pipeline.erasure.saving import describe, save
from pipeline.erasure.targets import Target
from pipeline.erasure.trainer import Settings
from pipeline.erasure.trainer import erase as train
from pipeline.generation.backend import DiffusionModel, fresh_model
from pipeline.io.atomic import atomic_path
from pipeline.io.images import to_square
from pipeline.io.runfolder import DUPLICATES, FINDINGS
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.anchors import draw_anchors
from pipeline.stages.gallery import Gallery, open_gallery
from pipeline.stages.models import model_fingerprint, model_inputs, model_lora
from pipeline.stages.split import Split, split_findings

_PICTURES_A_GROUP = 4
_MAX_RETAINED = 64
_NEIGHBOURS = 8
_ANCHORED = ("ablate", "siss", "adversarial")


def plan(context: Context) -> list[Part]:
    """One part a method, or none where nothing is to be erased."""
    if not split_findings(context).trained:
        return []
    inputs = (
        *model_inputs(context),
        relative(context.findings / FINDINGS, context.run),
        relative(context.train / DUPLICATES, context.run),
    )
    return [
        Part(method.name, inputs, {"method": method.model_dump(mode="json")})
        for method in context.config.erase.methods
    ]


def run(part: Part, context: Context) -> Outcome:
    """Erase with one method."""
    method = EraseMethod.model_validate(part.params["method"])
    base = context.path(part.inputs[0])
    split = split_findings(context)
    device, resolution = context.config.model.device, context.config.model.resolution
    model = fresh_model(base, device=device, lora=model_lora(context), resolution=resolution)
    gallery = open_gallery(context)
    targets = _targets(split, gallery, model.resolution)
    retained = [row["caption"] for row in split.retained][:_MAX_RETAINED]
    if method.objective in _ANCHORED:
        targets = _with_anchors(targets, split, model, gallery, context)
    if method.objective == "retrack":
        targets = _with_neighbours(targets, gallery, model.resolution)
    settings = _settings(method, context.config.seed)
    with torch.enable_grad():
        report = train(model, targets, retained, settings)
    output = f"erased/{method.name}"
    with atomic_path(context.path(output)) as temporary:
        facts = describe(targets, settings, report, base_sha256=model_fingerprint(context))
        save(model, temporary, facts | {"name": method.name, "trained_prompt_ids": _ids(split)})
    return Outcome((output,), len(split.trained), len(split.trained))


def _targets(split: Split, gallery: Gallery, resolution: int) -> list[Target]:
    targets = []
    for group, rows in split.groups.items():
        image_ids = sorted({image for row in rows for image in row["image_ids"]})
        own = [image for image in image_ids if gallery.group_of.get(image) == group]
        pictures = [
            to_square(gallery.images.picture(image), resolution)
            for image in own[:_PICTURES_A_GROUP] or gallery.members(group)[:1]
        ]
        captions = tuple(row["caption"] for row in rows)
        targets.append(Target(group, captions, np.stack(pictures)))
    return targets


def _with_anchors(
    targets: list[Target], split: Split, model: DiffusionModel, gallery: Gallery, context: Context
) -> list[Target]:
    pool = [row["caption"] for row in split.retained if row["role"] == "control"]
    anchored = []
    for target in targets:
        pictures, captions = draw_anchors(model, target.captions, pool, gallery, context)
        anchored.append(replace(target, anchors=pictures, anchor_captions=captions))
    return anchored


def _with_neighbours(targets: list[Target], gallery: Gallery, resolution: int) -> list[Target]:
    found = []
    for target in targets:
        near = gallery.neighbours(target.group_id, _NEIGHBOURS)
        pictures = [to_square(gallery.images.picture(image), resolution) for image in near]
        found.append(replace(target, neighbours=np.stack(pictures)) if pictures else target)
    return found


def _ids(split: Split) -> list[int]:
    return sorted(row["prompt_id"] for row in split.trained)


def _settings(method: EraseMethod, seed: int) -> Settings:
    given = {
        name: value
        for name, value in method  # the options of a method stay models
        if name not in ("name", "objective") and value is not None
    }
    return Settings(method=method.objective, seed=seed, **given)


STAGE = Stage(
    "erase",
    2,
    ("erase", "model", "train", "findings", "generate", "match", "verdict"),
    plan,
    run,
    tolerant=True,
    on_device=True,
)
