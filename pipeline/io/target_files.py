"""What a user wants erased, as a list: captions, and the pictures that they draw, if any."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.ids import normalize_caption
from pipeline.io.lists import ListRow, column_names, find_column, read_list

_CAPTION = ("caption", "prompt", "text")
_PICTURE = ("path", "file", "file_name", "filename", "image", "image_path")
_MAX_CHARS = 4096


@dataclass(frozen=True)
class Named:
    """One thing to erase: what draws it, and its picture, None where only captions are known."""

    captions: tuple[str, ...]
    picture: Path | None = None


def read_targets(path: Path) -> list[Named]:
    """The targets of a list, in its order; rows with one picture are one target.

    The column caption, prompt or text is taken, and path, file or image for pictures, relative to
    the list's folder. Unlike a list to audit every row counts: what was asked for and is left out
    would be believed to be erased. Raises MissingInput where there is no such file, InputError
    naming the first row that has no caption, or whose picture is not there.
    """
    rows = read_list(path, (*_CAPTION, *_PICTURE))
    column = find_column(path, rows, _CAPTION)
    names = [name for name in column_names(rows) if name.strip().lower() in _PICTURE]
    captions: dict[str | Path, list[str]] = {}
    for row in rows:
        if not row.reason and not any(row.values.values()):  # an empty line
            continue
        caption = _caption(path, row, column)
        picture = _picture(path, row, names)
        captions.setdefault(picture or caption, []).append(caption)
    if not captions:
        raise InputError(f"{path}: nothing to erase in it")
    return [
        Named(tuple(dict.fromkeys(told)), key if isinstance(key, Path) else None)
        for key, told in captions.items()
    ]


def _caption(path: Path, row: ListRow, column: str) -> str:
    caption = normalize_caption(row.text(column) or "")
    if row.reason or not caption or len(caption) > _MAX_CHARS:
        why = row.reason or f"a caption of 1 to {_MAX_CHARS:,} characters is needed"
        raise InputError(f"{path}: row {row.number}: {why}")
    return caption


def _picture(path: Path, row: ListRow, names: list[str]) -> Path | None:
    named = next((text for name in names if (text := row.text(name))), None)
    if named is None:
        return None
    picture = (path.parent / named).resolve()
    if not picture.is_file():
        raise InputError(f"{path}: row {row.number}: no picture {named[:200]}")
    return picture
