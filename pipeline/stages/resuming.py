"""Where an eraser keeps the state of its training while it runs: scratch/erase/ of the run."""

from contextlib import suppress
from pathlib import Path

from pipeline.erasure.saves import Saves
from pipeline.io.atomic import remove
from pipeline.io.digest import canonical_sha256, sha256_once
from pipeline.runner.part import Context, Part

_FOLDER = "scratch/erase"
_JUDGED_BY = ("model", "generate", "match", "verdict", "erase")


def saves_of(part: Part, context: Context) -> Saves | None:
    """The states of the training that `part` is; None where the configuration wants none."""
    every = context.config.runner.save_every
    if every is None:
        return None
    settings = context.config.model_dump(mode="json", include=set(_JUDGED_BY))
    inputs = {name: sha256_once(context.path(name)) for name in part.inputs}
    belongs_to = canonical_sha256([inputs, dict(part.params), settings])
    return Saves(_path(part, context), belongs_to, every)


def forget(part: Part, context: Context) -> None:
    """Remove what is left of a training that is done."""
    path = _path(part, context)
    remove(path)
    for folder in (path.parent, path.parent.parent):
        with suppress(OSError):  # other trainings keep theirs
            folder.rmdir()


def _path(part: Part, context: Context) -> Path:
    return context.path(f"{_FOLDER}/{part.name}.safetensors")
