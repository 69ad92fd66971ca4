"""shards: the demo's training set, with planted near-duplicates whose number is known."""

from pipeline.demo.plant import plant
from pipeline.io import schemas
from pipeline.io.runfolder import PLANTED
from pipeline.io.tables import read_table
from pipeline.runner.part import Context, Outcome, Part, Stage


def plan(context: Context) -> list[Part]:
    """One part: it takes seconds."""
    del context
    return [Part("all")]


def run(part: Part, context: Context) -> Outcome:
    """Write the shards and planted.parquet."""
    del part
    config = context.config.demo
    plant(
        context.run,
        seed=context.config.seed,
        copies=config.copies,
        pictures_per_level=config.pictures_per_level,
        limit=config.base_pictures,
    )
    rows = read_table(context.path(PLANTED), schemas.PLANTED).num_rows
    written = sorted(context.run.glob("shards/*"))
    outputs = [path.relative_to(context.run).as_posix() for path in written]
    return Outcome((*outputs, PLANTED), rows, rows)


STAGE = Stage("shards", 1, ("demo",), plan, run)
