"""A run that is added to an earlier one (`onto`): where that one lies, and how parts are numbered.

Parts of the new shards are numbered from the earlier run's last one on, and no shard has a name
that one of its shards has, since names go into image ids: two data sets may well have the same
files and keys.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pipeline.errors import UsageError
from pipeline.io import schemas
from pipeline.io.runfolder import image_part, list_image_parts
from pipeline.io.runjson import read_run_config
from pipeline.io.shards import Shard
from pipeline.io.tables import read_table
from pipeline.io.vectors import VectorFile
from pipeline.runner.part import Context

_File = TypeVar("_File", Shard, VectorFile)


def previous(context: Context) -> Context | None:
    """The run that this one is added to."""
    onto = context.config.onto
    return None if onto is None else Context(onto, read_run_config(onto))


def first_number(context: Context) -> int:
    """The number of the first part of this run's own."""
    before = previous(context)
    return 0 if before is None else 1 + max(map(int, list_image_parts(before.run)))


def refuse_known(own: Sequence[Path], old: Sequence[Path], run: Path) -> None:
    """Raise UsageError for a file that the run `run` was made of."""
    known = {path.resolve() for path in old}
    for path in own:
        if path.resolve() in known:
            raise UsageError(f"{path}: is in {run} already; give new shards only")


def renumbered(files: Sequence[_File], run: Path) -> list[_File]:
    """The files with numbers and names that the run `run` does not have."""
    parts = list_image_parts(run)
    first, taken = 1 + max(map(int, parts)), set()
    for part in parts:
        table = read_table(run / image_part(part), schemas.IMAGES, columns=["shard"])
        taken |= set(table["shard"].unique().to_pylist())
    named = []
    for file in files:
        number, name = first + file.number, file.name
        while name in taken:
            name = f"{number:05d}-{name}"
        taken.add(name)
        named.append(replace(file, number=number, name=name))
    return named
