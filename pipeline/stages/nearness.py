"""nearness: how near the pictures of control captions are to those that were erased."""

from pipeline.io import schemas
from pipeline.io.runfolder import DUPLICATES, FINDINGS, NEARNESS, index_folder
from pipeline.io.tables import write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.gallery import descriptor_of, open_gallery
from pipeline.stages.redraw import erased_models
from pipeline.stages.split import split_findings


def plan(context: Context) -> list[Part]:
    """One part; none without an erased model, or an encoder that compares by cosine."""
    if not erased_models(context) or descriptor_of(context) is None:
        return []
    tables = (context.findings / FINDINGS, context.train / DUPLICATES)
    folders = (context.train / index_folder(name) for name in context.config.match.encoders)
    return [Part("all", tuple(relative(path, context.run) for path in (*tables, *folders)))]


def run(part: Part, context: Context) -> Outcome:
    """Write nearness.parquet: for each control's group the nearest erased one, and the cosine."""
    del part
    split = split_findings(context)
    groups = sorted({row["group_id"] for row in split.controls if row["group_id"] is not None})
    found = open_gallery(context).nearest_group(groups, list(split.groups))
    rows = [
        {"group_id": group, "target_group": target, "similarity": similarity}
        for group, (target, similarity) in zip(groups, found, strict=bool(found))
    ]
    write_rows(context.path(NEARNESS), rows, schemas.NEARNESS)
    return Outcome((NEARNESS,), len(rows), len(rows))


STAGE = Stage(
    "nearness",
    1,
    ("erase", "match", "embed", "train", "findings", "erased"),
    plan,
    run,
    tolerant=True,
)
