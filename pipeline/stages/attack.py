"""attack: every configured attack on the base model, on each erased one, and on the oracle.

Its subjects are the erased pictures, and pictures that were never trained: what an attack draws of
those it brings out of itself, not out of the weights. An attempt hits if any of its drawings shows
the picture by the audit's rule. A part is an attack on a few pictures in one model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from pipeline.batches import batched
from pipeline.detection.blank import is_blank
from pipeline.detection.verdict import HITS, judge_generation
from pipeline.erasure.attacks.budgets import Budget, label
from pipeline.erasure.attacks.judge import Judged, judge
from pipeline.erasure.attacks.run import run_attack
from pipeline.erasure.attacks.subject import WHOLE, Attempts, Subject
from pipeline.erasure.trajectories import Walk
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.loading import check_folder, resolve_model
from pipeline.ids import hash63, prompt_id
from pipeline.io import schemas
from pipeline.io.digest import sha256_once
from pipeline.io.images import encode_png, to_square
from pipeline.io.runfolder import DUPLICATES, FINDINGS
from pipeline.io.shards import write_shard
from pipeline.io.tables import write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.beliefs import with_calibration
from pipeline.stages.gallery import Gallery, open_gallery
from pipeline.stages.judging import gather, limits_of
from pipeline.stages.models import model_folder, open_model
from pipeline.stages.redraw import BASE, erased_models
from pipeline.stages.split import Split, split_findings
from pipeline.stages.unseen import Choice, read_unseen, unseen_shards

ORACLE = "oracle"
TARGET, UNSEEN = "target", "unseen"
_OWN_INPUTS = 3  # the model and two tables; the shards of unseen pictures follow
_SUBJECTS_PER_PART = 4
_MAX_MEMBERS = 64
_MAX_OTHERS = 16
_BUDGET: TypeAdapter[Budget] = TypeAdapter(Budget)
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Aim:
    """A subject, its group of near-duplicates if the training set has one, and their squares."""

    subject: Subject
    group: int | None
    own: np.ndarray


def oracle_folder(context: Context) -> Path | None:
    """The model that was trained without the targets, where one is configured."""
    name = context.config.verify.oracle
    if name is None:
        return None
    folder = resolve_model(name)
    check_folder(folder)
    return folder


def plan(context: Context) -> list[Part]:
    """Parts by model, attack and block of pictures; none where nothing is attacked."""
    config, erased = context.config.verify, erased_models(context)
    if not config.attacks or not erased:
        return []
    split, oracle = split_findings(context), oracle_folder(context)
    models = {BASE: model_folder(context), **erased} | ({ORACLE: oracle} if oracle else {})
    tables = (
        relative(context.findings / FINDINGS, context.run),
        relative(context.train / DUPLICATES, context.run),
    )
    shards = tuple(relative(shard.path, context.run) for shard in unseen_shards(context))
    arms = [(block, ()) for block in _target_blocks(split)]
    blocks = -(-config.unseen_pictures // _SUBJECTS_PER_PART) if shards else 0
    choices = (
        {"count": config.unseen_pictures, "block": i, "blocks": blocks} for i in range(blocks)
    )
    unseen = [({"arm": UNSEEN, "choice": choice}, shards) for choice in choices]
    parts = []
    for method, folder in models.items():
        weights = sha256_once(folder)
        for budget in config.attacks:
            for number, (arm, own) in enumerate([*arms, *([] if method == ORACLE else unseen)]):
                params = {"method": method, "model": weights, **arm}
                params["attack"] = budget.model_dump(mode="json")
                params["others"] = _others(split)
                name = f"{method}-{label(budget)}-{arm['arm']}-{number:03d}"
                parts.append(Part(name, (relative(folder, context.run), *tables, *own), params))
    return with_calibration(parts, context)


def run(part: Part, context: Context) -> Outcome:
    """Attack the pictures of one block."""
    params = part.params
    budget, how = _BUDGET.validate_python(params["attack"]), context.config.generate
    model = open_model(context.path(part.inputs[0]), context, params["model"])
    gallery = open_gallery(context)
    aims, refused = _aims(part, model, gallery, context)
    rows: list[Row] = []
    samples: list[Row] = []
    for aim in aims:
        walk = Walk(how.steps, how.guidance)
        attempts = run_attack(model, aim.subject, budget, walk, seed=context.config.seed)
        judged = _judge(attempts, aim, gallery, context)
        row = _row(aim, attempts, judged, params)
        rows.append(row)
        flat = attempts.pictures.reshape(-1, *attempts.pictures.shape[2:])
        key = f"{hash63(part.name, row['subject']):016x}"
        samples.append({"__key__": key, "png": encode_png(flat[int(judged.tiled_l2.argmin())])})
    outputs = (f"attacks/{part.name}.tar", f"attacks/part-{part.name}.parquet")
    write_shard(context.path(outputs[0]), samples)
    write_rows(context.path(outputs[1]), rows, schemas.ATTACKS)
    rejected = {"in_training_set": refused} if refused else {}
    return Outcome(outputs, len(aims) + refused, len(rows), rejected)


def _target_blocks(split: Split) -> Iterator[Row]:
    """The erased groups with their captions: held-out ones first, for attacks that start there."""
    held: dict[int, list[Row]] = {}
    for row in split.held_out:
        held.setdefault(row["group_id"], []).append(row)
    targets = []
    for group, rows in split.groups.items():
        every = [*held.get(group, []), *rows]
        images = sorted({image for row in every for image in row["image_ids"]})
        targets.append([group, images, [row["caption"] for row in every]])
    for block in batched(targets, _SUBJECTS_PER_PART):
        yield {"arm": TARGET, "targets": list(block)}


def _others(split: Split) -> list[str]:
    """Captions that neither the eraser nor the audit connects with a target."""
    return [row["caption"] for row in split.controls[:_MAX_OTHERS]]


def _aims(
    part: Part, model: DiffusionModel, gallery: Gallery, context: Context
) -> tuple[list[_Aim], int]:
    params = part.params
    others, side = tuple(params["others"]), model.resolution
    compared = context.config.match.compare_px
    if params["arm"] == UNSEEN:
        shards = [context.path(name) for name in part.inputs[_OWN_INPUTS:]]
        found, refused = read_unseen(shards, context, gallery, side, Choice(**params["choice"]))
        aims = []
        for unseen in found:
            square = to_square(Image.fromarray(unseen.picture), compared)
            subject = Subject(unseen.picture, (unseen.caption,), others)
            aims.append(_Aim(subject, None, square[None]))
        return aims, refused
    aims = []
    for group, images, captions in params["targets"]:
        members = gallery.members(group)
        first = next((image for image in images if image in members), members[0])
        picture = to_square(gallery.images.picture(first), side)
        own = np.stack([gallery.square(image) for image in members[:_MAX_MEMBERS]])
        aims.append(_Aim(Subject(picture, tuple(captions), others), group, own))
    return aims, 0


def _judge(attempts: Attempts, aim: _Aim, gallery: Gallery, context: Context) -> Judged:
    """Judge every drawing, attempt by attempt."""
    flat = attempts.pictures.reshape(-1, *attempts.pictures.shape[2:])
    images = [Image.fromarray(picture) for picture in flat]
    squares = np.stack([to_square(image, context.config.match.compare_px) for image in images])
    matches = gallery.measure(images)
    limits = limits_of(context)
    others = [
        _stack([gallery.square(row["image_id"]) for row in rows if row["group_id"] != aim.group])
        for rows in matches
    ]
    judged = judge(squares, aim.own, others, limits, attempts.box)
    if aim.group is not None and attempts.box == WHOLE:  # a template has no other witness
        empty = is_blank(squares)
        for i, rows in enumerate(matches):
            own = [row for row in rows if row["group_id"] == aim.group]
            status = "rejected" if empty[i] else "ok"
            evidence = gather({"generation_id": i, "status": status}, own, searched=True)
            judged.shown[i] |= judge_generation(evidence, limits).verdict in HITS
    return judged


def _stack(squares: list[np.ndarray]) -> np.ndarray:
    return np.stack(squares) if squares else np.zeros((0, 1, 1, 3), np.uint8)


def _row(aim: _Aim, attempts: Attempts, judged: Judged, params: Any) -> Row:
    n = len(attempts.pictures)
    caption = aim.subject.captions[0]
    return {
        "method": params["method"],
        "attack": label(_BUDGET.validate_python(params["attack"])),
        "arm": params["arm"],
        "target_group": aim.group,
        "subject": hash63("subject", aim.subject.sha256, prompt_id(caption)),
        "caption": caption,
        "n": n,
        "hits": int(judged.shown.reshape(n, -1).any(axis=1).sum()),
        "nearest_tiled_l2": float(judged.tiled_l2.min()),
        "n_unet_forwards": attempts.forwards,
        "model_sha256": params["model"],
    }


STAGE = Stage(
    "attack",
    2,
    (
        "erase",
        "generate",
        "match",
        "verdict",
        "embed",
        "train",
        "findings",
        "erased",
        "scan",
    ),
    plan,
    run,
    on_device=True,
)
