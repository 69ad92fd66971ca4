"""A run that is added to an earlier one (`onto`): where that one lies, and how parts are numbered.

Parts of the new shards are numbered from the earlier run's last one on, and no shard has a name
that one of its shards has, since names go into image ids: two data sets may well have the same
files and keys.
"""

from collections.abc import Callable, Sequence
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


def after_earlier(
    own: list[_File], files_of: Callable[[Context], list[_File]], context: Context
) -> list[_File]:
    """The files of this run, behind those (`files_of`) of the run that it is added to, if any.

    Raises UsageError for one that the earlier run was made of.
    """
    before = previous(context)
    if before is None:
        return own
    old = files_of(before)
    known = {_place(file).resolve() for file in old}
    for path in map(_place, own):
        if path.resolve() in known:
            raise UsageError(f"{path}: is in {before.run} already; give new shards only")
    return old + _renumbered(own, before.run)


def _place(file: Shard | VectorFile) -> Path:
    return file.path if isinstance(file, Shard) else file.vectors


def _renumbered(files: Sequence[_File], run: Path) -> list[_File]:
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
