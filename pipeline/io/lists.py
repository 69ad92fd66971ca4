"""Lists as users have them: CSV, JSON lines, Parquet, or an entry a line.

A row that cannot be read is a row with a reason; only a file that is none of these is refused.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.errors import InputError, MissingInput
from pipeline.io.tables import read_foreign

LINE = ""
"""The name of the only column of a list without columns."""
_MAX_BYTES = 1 << 30
csv.field_size_limit(_MAX_BYTES)  # a huge field is a row to reject, not the end of the file


@dataclass(frozen=True)
class ListRow:
    """One row, counted from 1, by column; `reason` where it could not be read."""

    number: int
    values: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    def text(self, name: str) -> str | None:
        """The text of a column, None where there is none; numbers are written out.

        Half of a surrogate pair and NUL are no text.
        """
        value = self.values.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        return value if isinstance(value, str) and is_text(value) else None


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8, and holds no NUL."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def read_list(path: Path, wanted: Sequence[str] = ()) -> list[ListRow]:
    """All rows of a list, in order; of Parquet only the columns `wanted`, in any case, are read.

    Raises MissingInput where there is no such file, InputError where it is none of these.
    """
    if not path.is_file():
        raise MissingInput(f"{path}: no such file")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: larger than {_MAX_BYTES} bytes")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return list(_parquet_rows(path, wanted))
        if suffix in (".jsonl", ".ndjson", ".json"):
            return list(_json_rows(path))
        if suffix in (".csv", ".tsv"):
            return list(_csv_rows(path))
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        return [ListRow(i, {LINE: line.rstrip("\r")}) for i, line in enumerate(lines, 1)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: {error}") from error


def find_column(path: Path, rows: Sequence[ListRow], wanted: Sequence[str]) -> str:
    """The first column of a name in `wanted`, in any case, in the order of `wanted`.

    Raises InputError naming the columns that are there.
    """
    names = column_names(rows)
    for name in wanted:
        chosen = next((n for n in names if n.strip().lower() == name), None)
        if chosen is not None:
            return chosen
    if names in ([LINE], []):
        return LINE
    shown = ", ".join(name for name in names if name)[:200]
    raise InputError(f"{path}: no column {' or '.join(wanted)}; found {shown}")


def column_names(rows: Iterable[ListRow]) -> list[str]:
    """The names of all columns, in the order in which they are met."""
    return list(dict.fromkeys(name for row in rows for name in row.values))


def _parquet_rows(path: Path, wanted: Sequence[str]) -> Iterator[ListRow]:
    read_foreign(path, columns=[])  # refuses what is no Parquet
    names = pq.read_schema(path).names
    chosen = [name for name in names if name.strip().lower() in wanted] or names
    for number, row in enumerate(read_foreign(path, columns=chosen).to_pylist(), 1):
        yield ListRow(number, row)


def _csv_rows(path: Path) -> Iterator[ListRow]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        head = handle.readline()
        handle.seek(0)
        delimiter = max(",;\t", key=head.count)
        last = ListRow(0)
        for number, row in enumerate(csv.DictReader(handle, delimiter=delimiter), 1):
            last = ListRow(number, {name: v for name, v in row.items() if name is not None})
            yield last
        handle.seek(0)
        odd = sum(line.count('"') for line in handle) % 2 == 1
    if odd and any("\n" in (value or "") for value in last.values.values()):
        # the rest of the file has become one field
        raise InputError(f"{path}: the quote that opens in row {last.number} is never closed")


def _json_rows(path: Path) -> Iterator[ListRow]:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):  # one array, not lines
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not a JSON array ({error})") from error
        yield from (_json_row(number, value) for number, value in enumerate(values, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            yield ListRow(number, reason="not_json")
            continue
        yield _json_row(number, value)


def _json_row(number: int, value: Any) -> ListRow:
    if isinstance(value, dict):
        return ListRow(number, value)
    return ListRow(number, {LINE: value})
