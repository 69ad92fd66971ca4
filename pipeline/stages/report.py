"""report: every table there is in; a page, figures, a card and summary.json out.

It reads the run's own tables and those of the runs that it was made from, and judges nothing: a
number that is not in a table is not in the report.
"""

import json
from dataclasses import replace
from pathlib import Path

from pipeline.errors import MissingInput
from pipeline.io.atomic import atomic_path
from pipeline.io.manifest import TrainingImages
from pipeline.io.runjson import NAME, read_run_config, read_versions
from pipeline.report.canvas import DARK, LIGHT
from pipeline.report.card import render_card
from pipeline.report.collect import as_json, collect
from pipeline.report.figures import draw_all
from pipeline.report.page import render_page
from pipeline.report.pictures import Pictures
from pipeline.report.sources import Sources
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.scan import image_limits, shards_of

REPORT = "report"


def plan(context: Context) -> list[Part]:
    """One part, of all tables there are.

    run.json is no input: it names the workers too, on which no byte of the report depends.
    """
    files = [path for path in Sources(context).files() if path.name != NAME]
    shown = {
        "config": context.config.model_dump(mode="json", exclude={"runner"}),
        "versions": read_versions(context.run),
    }
    return [Part("all", tuple(relative(path, context.run) for path in files), shown)]


def run(part: Part, context: Context) -> Outcome:
    """Write the report's folder."""
    sources = Sources(context)
    facts = replace(collect(context), files=sources.digests())
    pictures = Pictures(sources, _training_images(context), image_limits(context))
    light, dark = draw_all(facts, LIGHT), draw_all(facts, DARK)
    texts = {
        "index.html": render_page(facts, pictures, light, dark),
        "AUDIT_CARD.md": render_card(facts),
        "summary.json": json.dumps(as_json(facts), indent=1, sort_keys=True) + "\n",
    }
    with atomic_path(context.path(REPORT)) as folder:
        (folder / "figures").mkdir(parents=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, data in light.items():
            (folder / "figures" / f"{name}.png").write_bytes(data)
    return Outcome((REPORT,), len(part.inputs), len(part.inputs))


def _training_images(context: Context) -> TrainingImages | None:
    """The training pictures; None where there are none, or their shards are gone."""
    config = context.config if context.config.train is None else read_run_config(context.train)
    source = Context(context.train, config)
    try:
        shards: dict[str, Path] = {shard.name: shard.path for shard in shards_of(source)}
        return TrainingImages(context.train, shards, image_limits(source))
    except MissingInput:
        return None


STAGE = Stage(
    REPORT,
    3,
    ("report", "scan", "dataset", "model", "verdict", "train", "findings", "erased"),
    plan,
    run,
)
