"""Prompt lists as users have them: CSV, JSON lines, Parquet, or a caption a line."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, MissingInput
from pipeline.generation.seeds import normalize_caption
from pipeline.io.tables import read_foreign

_NAMES = ("caption", "prompt", "text")
_MAX_BYTES = 1 << 30
csv.field_size_limit(1 << 20)


def read_prompts(path: Path) -> list[str]:
    """Distinct captions in the order of the file, in NFC.

    A column is recognised by the name caption, prompt or text, in any case. Raises InputError
    naming the line that cannot be read.
    """
    if not path.is_file():
        raise MissingInput(f"{path}: no such prompt file")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: larger than {_MAX_BYTES} bytes")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            captions = _column(path, read_foreign(path).to_pylist())
        elif suffix in (".jsonl", ".ndjson"):
            captions = _column(path, _json_lines(path))
        elif suffix in (".csv", ".tsv"):
            captions = _column(path, _csv_rows(path))
        else:
            captions = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: {error}") from error
    normal = (normalize_caption(caption) for caption in captions)
    found = list(dict.fromkeys(caption for caption in normal if caption))
    if not found:
        raise InputError(f"{path}: no captions in it")
    return found


def _csv_rows(path: Path) -> Iterable[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        head = handle.readline()
        handle.seek(0)
        delimiter = max(",;\t", key=head.count)
        return list(csv.DictReader(handle, delimiter=delimiter))


def _json_lines(path: Path) -> Iterable[Mapping[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error})") from error
        rows.append(row if isinstance(row, dict) else {"caption": row})
    return rows


def _column(path: Path, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    listed = list(rows)
    names = list(dict.fromkeys(name for row in listed for name in row if name is not None))
    chosen = next((n for wanted in _NAMES for n in names if n.strip().lower() == wanted), None)
    if chosen is None:
        raise InputError(f"{path}: no column {' or '.join(_NAMES)}; found {', '.join(names)[:200]}")
    return [row[chosen] for row in listed if isinstance(row.get(chosen), str)]
