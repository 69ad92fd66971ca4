"""What one machine wrote, another sees: the premise of parts on several hosts, looked after.

A worker that does not share the run folder writes to a disk of its own, and what it wrote would be
missing without a word. A network file system that does share it may show an old listing for as long
as it caches attributes: NFS up to a minute, by default. So who needs a file waits that long for it.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

PATIENCE_S = 65.0
_POLL_S = 0.2


def await_seen(paths: Iterable[Path]) -> Path | None:
    """The first of `paths` that is not there within the patience, or None where all are."""
    wanted = list(paths)
    deadline = time.monotonic() + PATIENCE_S
    while (missing := _unseen(wanted)) is not None:
        if time.monotonic() > deadline:
            return missing
        time.sleep(_POLL_S)
    return None


def _unseen(paths: Iterable[Path]) -> Path | None:
    """A path that is not there, or not in the listing of its folder where several of it are wanted.

    Stages list the folders that they read whole: one with an old listing would miss rows.
    """
    folders: dict[Path, set[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, set()).add(path.name)
    for folder, names in folders.items():
        some = len(names) > 1
        missing = (
            names - _listed(folder) if some else {n for n in names if not (folder / n).exists()}
        )
        if missing:
            return folder / min(missing)
    return None


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208  names alone, of folders that may be large
    except OSError:
        return set()
