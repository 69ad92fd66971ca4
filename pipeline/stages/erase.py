"""erase: findings in, for each method a model that was taught not to draw them out.

In the place of findings there may be captions of the user's own, with pictures or without. Then
nothing says what else is to stay: only what the model draws without a caption is retained.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from pipeline.config import EraseMethod
from pipeline.erasure.saving import describe, save
from pipeline.erasure.targets import Target, no_pictures
from pipeline.erasure.trainer import Settings
from pipeline.erasure.trainer import erase as train
from pipeline.errors import ConfigError, ImageRejected, InputError
from pipeline.generation.backend import DiffusionModel, fresh_model
from pipeline.io.atomic import atomic_path
from pipeline.io.images import decode, fits, read_picture_file, to_square
from pipeline.io.runfolder import DUPLICATES, FINDINGS
from pipeline.io.target_files import Named, read_targets
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.anchors import draw_anchors
from pipeline.stages.beliefs import with_calibration
from pipeline.stages.gallery import Gallery, open_gallery
from pipeline.stages.looking import looks_at
from pipeline.stages.models import model_fingerprint, model_inputs, model_lora
from pipeline.stages.resuming import forget, saves_of
from pipeline.stages.scan import image_limits
from pipeline.stages.split import Split, split_findings

_PICTURES_A_GROUP = 4
_MAX_RETAINED = 64
_NEIGHBOURS = 8
_ANCHORED = ("ablate", "siss", "adversarial")


def plan(context: Context) -> list[Part]:
    """One part a method, or none where nothing is to be erased."""
    named = named_targets(context)
    if not named and not split_findings(context).trained:
        return []
    inputs = (
        *model_inputs(context),
        *(_named_inputs(named, context) if named else _found_inputs(context)),
    )
    parts = [
        Part(method.name, inputs, {"method": method.model_dump(mode="json")})
        for method in context.config.erase.methods
    ]
    return with_calibration(parts, context)


def run(part: Part, context: Context) -> Outcome:
    """Erase with one method."""
    method = EraseMethod.model_validate(part.params["method"])
    base = context.path(part.inputs[0])
    device, resolution = context.config.model.device, context.config.model.resolution
    model = fresh_model(base, device=device, lora=model_lora(context), resolution=resolution)
    looks = None
    if named := named_targets(context):
        if context.config.erase.stop is not None:
            raise ConfigError("erase.stop: needs findings, which say what is memorized")
        work = _Work(_load(named, context, model.resolution))
    else:
        work = _found(method, model, context)
        gallery = open_gallery(context)
        looks = looks_at(model, work.targets, split_findings(context), gallery, context)
    settings = _settings(method, context.config.seed)
    saves = saves_of(part, context)
    with torch.enable_grad():
        report = train(model, work.targets, work.retained, settings, looks=looks, saves=saves)
    output = f"erased/{method.name}"
    with atomic_path(context.path(output)) as temporary:
        facts = describe(work.targets, settings, report, base_sha256=model_fingerprint(context))
        save(model, temporary, facts | {"name": method.name, "trained_prompt_ids": work.ids})
    forget(part, context)
    count = len(work.ids) or sum(len(target.captions) for target in work.targets)
    return Outcome((output,), count, count)


@dataclass(frozen=True)
class _Work:
    """What goes, the captions that stay as they are, and the prompts that are trained on."""

    targets: list[Target]
    retained: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)


def named_targets(context: Context) -> list[Named]:
    """What the user named in the place of findings; see `read_targets` for errors."""
    config = context.config.erase
    named = [Named((caption,)) for caption in config.concepts]
    return named + (read_targets(Path(config.targets)) if config.targets else [])


def _named_inputs(named: list[Named], context: Context) -> list[str]:
    listed = [Path(context.config.erase.targets)] if context.config.erase.targets else []
    limits = image_limits(context)  # what is too large will be refused by its size alone
    pictures = [
        target.picture for target in named if target.picture and fits(target.picture, limits)
    ]
    return [relative(path, context.run) for path in (*listed, *pictures)]


def _found_inputs(context: Context) -> list[str]:
    paths = (context.findings / FINDINGS, context.train / DUPLICATES)
    return [relative(path, context.run) for path in paths]


def _load(named: list[Named], context: Context, resolution: int) -> list[Target]:
    """Targets numbered from 0; a picture that cannot be read stops the part."""
    limits = image_limits(context)
    targets = []
    for number, target in enumerate(named):
        pictures = no_pictures()
        if target.picture is not None:
            try:
                image = decode(read_picture_file(target.picture, limits), limits)
            except ImageRejected as error:
                raise InputError(f"{target.picture}: {error.reason}: {error}") from error
            pictures = to_square(image, resolution)[np.newaxis]
        targets.append(Target(number, target.captions, pictures))
    return targets


def _found(method: EraseMethod, model: DiffusionModel, context: Context) -> _Work:
    split, gallery = split_findings(context), open_gallery(context)
    targets = _targets(split, gallery, model.resolution)
    if method.objective in _ANCHORED:
        targets = _with_anchors(targets, split, model, gallery, context)
    if method.objective == "retrack":
        targets = _with_neighbours(targets, gallery, model.resolution)
    retained = [row["caption"] for row in split.retained][:_MAX_RETAINED]
    return _Work(targets, retained, _ids(split))


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
    3,
    ("erase", "model", "train", "findings", "generate", "match", "verdict"),
    plan,
    run,
    tolerant=True,
    on_device=True,
)
