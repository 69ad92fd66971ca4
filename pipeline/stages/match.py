"""match: generations in, their nearest training pictures out."""

from functools import partial
from typing import Any

from pipeline.batches import batched
from pipeline.io import schemas
from pipeline.io.images import decode
from pipeline.io.runfolder import DUPLICATES, GROUPS, MATCHES
from pipeline.io.shards import iterate_samples, picture_bytes
from pipeline.io.tables import read_rows, write_rows
from pipeline.runner.merge import merge_stage
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.gallery import open_gallery
from pipeline.stages.rounds import MOST_ROUNDS, drawn_parts, round_name
from pipeline.stages.scan import image_limits


def plan(context: Context, number: int = 0) -> list[Part]:
    """One part a block of a round's generations; none without a training run."""
    if not (context.train / DUPLICATES).is_file():
        return []
    known = [context.train / name for name in (DUPLICATES, GROUPS)]
    train = [relative(path, context.run) for path in known if path.is_file()]
    names = [path.stem for path in drawn_parts(context, number)]
    return [
        Part(name, (f"generations/{name}.tar", f"generations/{name}.parquet", *train))
        for name in names
    ]


def run(part: Part, context: Context) -> Outcome:
    """Match one block."""
    gallery = open_gallery(context)
    limits = image_limits(context)
    rows: list[dict[str, Any]] = []
    generations = read_rows(context.path(part.inputs[1]), schemas.GENERATIONS)
    accepted = {row["key"]: row["generation_id"] for row in generations if row["status"] == "ok"}
    samples = iterate_samples(context.path(part.inputs[0]), accepted.keys())
    for batch in batched(samples, context.config.embed.batch_size):
        pictures = [decode(picture_bytes(sample), limits) for sample in batch]
        for sample, matches in zip(batch, gallery.measure(pictures), strict=True):
            generation = {"generation_id": accepted[sample["__key__"]]}
            rows += [generation | match for match in matches]
    output = f"matches/part-{part.name}.parquet"
    write_rows(context.path(output), rows, schemas.MATCHES)
    return Outcome((output,), len(accepted), len(accepted))


STAGES = tuple(
    Stage(
        round_name("match", number),
        3,
        ("match", "embed", "train"),
        partial(plan, number=number),
        run,
        on_device=True,
    )
    for number in range(MOST_ROUNDS)
)
STAGE = STAGES[0]
TABLE = merge_stage("match-table", "matches/part-*.parquet", MATCHES, schemas.MATCHES)
