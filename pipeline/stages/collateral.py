"""collateral: the denoising loss of the base model and of each erased one on one set of pictures.

It needs no drawing, and sees small changes that drawings do not. Subsets, each picture under one of
its captions:

    target     erased pictures: beside an oracle, a model that never saw them, the loss says
               whether they are still known, forgotten, or avoided more than what was never seen
    kept       memorized pictures that were not to be erased, and that the eraser never saw
    control    pictures seen once, which the eraser did not see
    unseen     pictures of `verify.unseen`, which no model was trained on

A part is a model: the oracle too, where one is configured. Noise and levels depend on the picture
alone.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.erasure.attacks.drawing import horizon
from pipeline.erasure.denoising_loss import denoising_loss, midpoints
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.memory import in_fitting_batches
from pipeline.ids import hash63
from pipeline.io import schemas
from pipeline.io.digest import sha256_once
from pipeline.io.images import to_square
from pipeline.io.runfolder import DUPLICATES, FINDINGS
from pipeline.io.tables import write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.attack import ORACLE, oracle_folder
from pipeline.stages.gallery import Gallery, open_gallery
from pipeline.stages.redraw import Compared, Row, compared_models, open_compared
from pipeline.stages.split import split_findings
from pipeline.stages.unseen import Choice, read_unseen, unseen_shards

LEVELS = 8
TARGET, KEPT, CONTROL, UNSEEN = "target", "kept", "control", "unseen"


@dataclass(frozen=True, eq=False)
class _Picture:
    """A picture (s, s, 3) at the model's resolution, and where it comes from."""

    subset: str
    picture_id: int
    caption: str
    pixels: np.ndarray


def plan(context: Context) -> list[Part]:
    """One part a model; none where nothing was erased or no pictures are to be looked at."""
    models, config = compared_models(context), context.config.verify
    if not models or not config.loss_pictures:
        return []
    if (oracle := oracle_folder(context)) is not None:
        models.append(Compared(ORACLE, sha256_once(oracle), (relative(oracle, context.run),)))
    tables = (
        relative(context.findings / FINDINGS, context.run),
        relative(context.train / DUPLICATES, context.run),
    )
    shards = tuple(relative(shard.path, context.run) for shard in unseen_shards(context))
    count = min(config.unseen_pictures, config.loss_pictures) if shards else 0
    shared = {"levels": LEVELS, "pictures": _chosen(context), "unseen": count}
    if not shared["pictures"] and not count:
        return []
    return [
        Part(
            model.method,
            (*model.files, *tables, *shards),
            {"method": model.method, "model": model.weights, "shards": len(shards), **shared},
        )
        for model in models
    ]


def run(part: Part, context: Context) -> Outcome:
    """Measure the loss of one model at every level of every picture."""
    model = open_compared(part, context)
    pictures, refused = _pictures(part, model.resolution, open_gallery(context), context)
    timesteps = midpoints(horizon(model), part.params["levels"])
    losses = _losses(model, pictures, timesteps, context)
    rows = [
        {
            "method": part.params["method"],
            "subset": picture.subset,
            "picture_id": picture.picture_id,
            "caption": picture.caption,
            "timestep": timestep,
            "loss": next(losses),
        }
        for picture in pictures
        for timestep in timesteps
    ]
    output = f"collateral/part-{part.name}.parquet"
    write_rows(context.path(output), rows, schemas.COLLATERAL)
    rejected = {"in_training_set": refused} if refused else {}
    return Outcome((output,), len(pictures) + refused, len(pictures), rejected)


def _chosen(context: Context) -> list[list[object]]:
    """For each subset [subset, group, image ids, caption] of the first so many groups."""
    split, most = split_findings(context), context.config.verify.loss_pictures
    chosen: list[list[object]] = []
    for subset, rows in (
        (TARGET, split.trained),
        (KEPT, split.kept),
        (CONTROL, split.controls),
    ):
        first: dict[int, Row] = {}
        for row in rows:
            if row["group_id"] is not None:
                first.setdefault(row["group_id"], row)
        chosen += [
            [subset, group, sorted(row["image_ids"]), row["caption"]]
            for group, row in list(first.items())[:most]
        ]
    return chosen


def _pictures(
    part: Part, side: int, gallery: Gallery, context: Context
) -> tuple[list[_Picture], int]:
    """The pictures of a part, and how many unseen ones were refused: they were trained on."""
    params = part.params
    pictures = []
    for subset, group, images, caption in params["pictures"]:
        members = gallery.members(group)
        image = next((image for image in images if image in members), members[0])
        pixels = to_square(gallery.images.picture(image), side)
        pictures.append(_Picture(subset, image, caption, pixels))
    if not params["unseen"]:
        return pictures, 0
    shards = [context.path(name) for name in part.inputs[len(part.inputs) - params["shards"] :]]
    found, refused = read_unseen(shards, context, gallery, side, Choice(params["unseen"], 0, 1))
    for unseen in found:
        digest = hashlib.sha256(np.ascontiguousarray(unseen.picture).tobytes()).hexdigest()
        identity = hash63("unseen", digest)
        pictures.append(_Picture(UNSEEN, identity, unseen.caption, unseen.picture))
    return pictures, refused


def _losses(
    model: DiffusionModel, pictures: Sequence[_Picture], timesteps: Sequence[int], context: Context
) -> Iterator[float]:
    """The loss of each picture at each time step, picture by picture."""
    size, seed = context.config.generate.batch_size, context.config.seed

    def encode(batch: Sequence[_Picture]) -> torch.Tensor:
        with torch.no_grad():
            return model.encode_pictures(np.stack([picture.pixels for picture in batch]))

    def measure(batch: Sequence[tuple[int, int]]) -> list[float]:
        places = torch.tensor([place for place, _ in batch], device=latents.device)
        own = [pictures[place] for place, _ in batch]
        return denoising_loss(
            model,
            latents[places],
            [picture.caption for picture in own],
            torch.tensor([timestep for _, timestep in batch]),
            [
                hash63("collateral", seed, picture.picture_id, timestep)
                for picture, (_, timestep) in zip(own, batch, strict=True)
            ],
        )

    latents = torch.cat([found for _, found in in_fitting_batches(pictures, size, encode)])
    jobs = [(place, timestep) for place in range(len(pictures)) for timestep in timesteps]
    for _, losses in in_fitting_batches(jobs, size, measure):
        yield from losses


STAGE = Stage(  # of `verify` all that matters is in the params
    "collateral",
    1,
    ("generate", "match", "verdict", "embed", "train", "findings", "erased", "scan"),
    plan,
    run,
    tolerant=True,
    on_device=True,
)
