"""truth: does the demo's model really reproduce a picture? Asked apart from the verdict.

Each audited caption whose picture is known from planted.parquet is drawn with fresh seeds. A
drawing reproduces a picture when their structural similarity (Wang et al. 2004, by torchmetrics)
is at least 0.6, and its distance to 1 is less than 0.7 of that of any other picture (the relative
test). That may be the picture of another caption. Measure and seeds are not the verdict's.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.generation.memory import in_fitting_batches
from pipeline.generation.seeds import image_seed
from pipeline.ids import hash63, normalize_caption, prompt_id
from pipeline.io import schemas
from pipeline.io.images import decode, to_square
from pipeline.io.runfolder import PLANTED, PROMPTS
from pipeline.io.shards import find_shards, iterate_samples, picture_bytes
from pipeline.io.tables import read_rows, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.generate import sampling
from pipeline.stages.models import caption_parts, open_audited

MIN_SSIM = 0.6
MAX_RATIO = 0.7
_CAPTIONS_PER_PART = 16
_SHORTLIST = 24

Row = dict[str, Any]
Pictures = npt.NDArray[np.uint8]


def plan(context: Context) -> list[Part]:
    """One part a block of captions; none where nothing was planted."""
    if not context.path(PLANTED).is_file():
        return []
    inputs = (PLANTED, "shards")
    return caption_parts(context, _captions(context), _CAPTIONS_PER_PART, inputs=inputs)


def run(part: Part, context: Context) -> Outcome:
    """Draw one block and compare it with every picture of the training set."""
    ids, originals = _originals(context.run, context.config.match.compare_px)
    place = {picture: row for row, picture in enumerate(ids)}
    model = open_audited(part, context)
    jobs = [
        (row, number)
        for row in part.params["prompts"]
        for number in range(context.config.demo.truth_seeds)
    ]
    rows: list[Row] = []

    def seed_of(row: Row, number: int) -> int:
        return image_seed(context.config.seed, hash63("truth", row["prompt_id"]), number)

    def draw(batch: Sequence[tuple[Row, int]]) -> Pictures:
        seeds = [seed_of(*job) for job in batch]
        return model.draw([row["caption"] for row, _ in batch], seeds, sampling(context))

    for batch, drawn in in_fitting_batches(jobs, context.config.generate.batch_size, draw):
        for (row, number), picture in zip(batch, drawn, strict=True):
            seed = seed_of(row, number)
            own = place[row["picture_id"]]
            similarity = similarities(picture, originals, own)
            found = reproduced(similarity)
            measured = {
                "own_ssim": similarity[own],
                "other_ssim": max(s for i, s in similarity.items() if i != own),
                "reproduced": found == own,
                "reproduced_picture": None if found is None else ids[found],
            }
            rows.append({**row, **measured, "number": number, "seed": seed})
    output = f"truth/part-{part.name}.parquet"
    write_rows(context.path(output), rows, schemas.TRUTH)
    return Outcome((output,), len(jobs), len(rows))


def reproduced(similarity: dict[int, float]) -> int | None:
    """The picture that a drawing with these SSIMs reproduces, if any: near, and nearest by far."""
    second, best = sorted(similarity, key=lambda i: (similarity[i], -i))[-2:]
    near = similarity[best] >= MIN_SSIM
    stands_out = 1 - similarity[best] < MAX_RATIO * (1 - similarity[second])
    return best if near and stands_out else None


def similarities(picture: Pictures, originals: Pictures, own: int) -> dict[int, float]:
    """SSIM of `picture` (s, s, 3) to originals[own] and to the others nearest to it, by place.

    Of `originals` (n, s, s, 3) the nearest by mean squared error are compared.
    """
    errors = np.square(originals.astype(np.float32) - picture).mean(axis=(1, 2, 3))
    nearest = [i for i in np.argsort(errors, kind="stable")[:_SHORTLIST] if i != own]
    compared = [own, *(int(i) for i in nearest)]
    chosen = originals[compared]
    targets = torch.from_numpy(chosen).permute(0, 3, 1, 2).float() / 255
    drawn = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
    from torchmetrics.functional.image import (  # noqa: PLC0415  seconds, for the demo alone
        structural_similarity_index_measure as ssim,
    )

    values = ssim(drawn.expand_as(targets), targets, reduction="none", data_range=1.0)
    return dict(zip(compared, values.tolist(), strict=True))


def _captions(context: Context) -> list[Row]:
    """Audited captions whose picture is known: one row each, with its number of copies."""
    planted = read_rows(context.path(PLANTED), schemas.PLANTED)
    known: dict[str, Row] = {}
    owners: dict[str, set[str]] = {}
    for row in planted:
        caption = normalize_caption(row["caption"])
        owners.setdefault(caption, set()).add(row["picture_id"])
        known.setdefault(caption, row)
    audited = read_rows(context.path(PROMPTS), schemas.PROMPTS, columns=["caption"])
    captions = sorted({row["caption"] for row in audited}, key=prompt_id)
    fields = ("picture_id", "planted", "k", "k_caption")
    return [
        {"prompt_id": prompt_id(c), "caption": c, **{f: known[c][f] for f in fields}}
        for c in captions
        if len(owners.get(c, ())) == 1
    ]


@lru_cache(maxsize=1)
def _originals(run: Path, side: int) -> tuple[list[str], Pictures]:
    """One picture of each picture_id, at the common size: the mean of its copies."""
    picture_of = {
        row["key"]: row["picture_id"] for row in read_rows(run / PLANTED, schemas.PLANTED)
    }
    sums: dict[str, npt.NDArray[np.float64]] = {}
    counts: Counter[str] = Counter()
    for shard in find_shards([str(run / "shards")]):
        for sample in iterate_samples(shard.path, picture_of.keys()):
            picture = picture_of[sample["__key__"]]
            square = to_square(decode(picture_bytes(sample)), side).astype(np.float64)
            sums[picture] = sums.get(picture, 0.0) + square
            counts[picture] += 1
    ids = sorted(sums)
    mean = np.stack([sums[name] / counts[name] for name in ids])
    return ids, mean.round().astype(np.uint8)


STAGE = Stage("truth", 2, ("demo", "model", "generate", "match"), plan, run, on_device=True)
