"""model: the demo's diffusion model, trained from scratch on the demo's shards."""

from pipeline.io.atomic import atomic_path
from pipeline.io.runfolder import PLANTED
from pipeline.io.tables import read_foreign
from pipeline.runner.part import Context, Outcome, Part, Stage

_FOLDER = "model"


def plan(context: Context) -> list[Part]:
    """One part, or none where a model is given."""
    if context.config.model.path is not None:
        return []
    return [Part("all", ("shards",))]


def run(part: Part, context: Context) -> Outcome:
    """Train, and save a stock diffusers folder."""
    # imported where used: it takes seconds that a deduplication need not wait for
    from pipeline.demo.train import train_model  # noqa: PLC0415

    del part
    config = context.config.demo
    with atomic_path(context.path(_FOLDER)) as temporary:
        train_model(
            context.path("shards"),
            temporary,
            steps=config.steps,
            seed=context.config.seed,
            threads=config.threads,
        )
    rows = read_foreign(context.path(PLANTED), columns=["key"]).num_rows
    return Outcome((_FOLDER,), rows, rows)


STAGE = Stage("model", 1, ("demo",), plan, run)
