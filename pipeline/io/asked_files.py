"""Training images that someone asks about, as a list of uids, urls, keys, ids, or picture files."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.io.lists import LINE, ListRow, column_names, read_list

KINDS = {
    "uid": ("uid",),
    "image_id": ("image_id",),
    "url": ("url", "image_url"),
    "key": ("key",),
    "path": ("path", "file", "file_name", "filename", "image", "image_path"),
}
"""What an image may be named by, and the columns that hold it; the first that a row fills counts.

Rows without columns are of no kind: whatever they name is looked for.
"""
_NAMES = tuple(name for names in KINDS.values() for name in names)
_MAX_CHARS = 4096


@dataclass(frozen=True)
class Asked:
    """One row of the list, counted from 1. `kind`: one of KINDS, None where it is not said.

    `reason` where the row names nothing.
    """

    row: int
    text: str
    kind: str | None = None
    reason: str = ""


def read_asked(path: Path) -> list[Asked]:
    """The rows of a list. A row that says what an earlier one says is `repeated`.

    Raises MissingInput where there is no such file, InputError where it names no image.
    """
    rows = read_list(path, _NAMES)
    names = column_names(rows)
    kinds = [
        (kind, name)
        for kind, wanted in KINDS.items()
        for name in names
        if name.strip().lower() in wanted
    ]
    if not kinds and any(name != LINE for name in names):
        shown = ", ".join(name for name in names if name)[:200]
        raise InputError(f"{path}: no column {', '.join(KINDS)}; found {shown}")
    asked: list[Asked] = []
    seen: set[tuple[str | None, str]] = set()
    for row in rows:
        found = _asked(row, kinds)
        if (found.kind, found.text) in seen and not found.reason:
            found = Asked(found.row, found.text, found.kind, "repeated")
        seen.add((found.kind, found.text))
        asked.append(found)
    while asked and asked[-1].reason == "empty" and asked[-1].kind is None:
        asked.pop()  # a text ends with a newline, after which there is no row
    if all(row.reason for row in asked):
        raise InputError(f"{path}: no image is named in it")
    return asked


def _asked(row: ListRow, kinds: list[tuple[str, str]]) -> Asked:
    if row.reason:
        return Asked(row.number, "", reason=row.reason)
    for kind, name in kinds:
        if (text := (row.text(name) or "").strip()) != "":
            return _bounded(row.number, text, kind)
    line = (row.text(LINE) or "").strip()
    if line:
        return _bounded(row.number, line, None)
    unread = any(value not in (None, "") for value in row.values.values())
    return Asked(row.number, "", reason="not_text" if unread and LINE in row.values else "empty")


def _bounded(number: int, text: str, kind: str | None) -> Asked:
    reason = "too_long" if len(text) > _MAX_CHARS else ""
    return Asked(number, text[:_MAX_CHARS], kind, reason)
