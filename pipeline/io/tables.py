"""Parquet with declared columns, page checksums and the same bytes for the same rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import __version__
from pipeline.errors import MissingInput, SchemaMismatch, ShardCorrupt, first_line
from pipeline.io.atomic import atomic_path

WRITER_KEY = b"unmemorize.writer"
Rows = Sequence[Mapping[str, Any]]


def table_from_rows(rows: Rows, schema: pa.Schema) -> pa.Table:
    """Build a table from dicts; a column missing in a row is null."""
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise SchemaMismatch(f"columns {sorted(unknown)} are not in the schema {schema.names}")
    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    return table_from_columns(columns, schema)


def table_from_columns(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Build a table from one sequence a column, checking types and missing values."""
    try:
        table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
    except (KeyError, ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        reason = first_line(error)
        raise SchemaMismatch(f"cannot build a table of {schema.names}: {reason}") from error
    _require_no_nulls(table, "new table")
    return table


def write_table(path: Path, table: pa.Table) -> int:
    """Write `table` atomically with page checksums; return its number of rows.

    Extra columns of the caller's are kept: the schema of `table` is written as it is.
    """
    return write_tables(path, [table], table.schema)


def write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write tables of one schema into one file, one after the other; as `write_table` does.

    Every table begins a row group, so that the bytes depend on where the rows are divided.
    """
    tag = {WRITER_KEY: f"unmemorize {__version__}".encode()}
    rows = 0
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema.with_metadata(tag),
            compression="zstd",
            write_page_checksum=True,
            store_schema=True,
        ) as writer,
    ):
        for table in tables:
            writer.write_table(table.replace_schema_metadata(tag), row_group_size=1 << 17)
            rows += table.num_rows
    return rows


def write_rows(path: Path, rows: Rows, schema: pa.Schema) -> int:
    """Write dicts as a table of `schema`; return the number of rows."""
    return write_table(path, table_from_rows(rows, schema))


def read_table(path: Path, schema: pa.Schema, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one of our own tables, verifying page checksums and the columns of `schema`."""
    wanted = [schema.field(name) for name in (columns or schema.names)]
    table = read_foreign(path, columns=[field.name for field in wanted])
    missing = [field.name for field in wanted if field.name not in table.column_names]
    if missing:
        raise SchemaMismatch(f"{path}: no column {', '.join(missing)}; made by another version?")
    try:
        table = table.select([field.name for field in wanted]).cast(pa.schema(wanted))
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise SchemaMismatch(f"{path}: {first_line(error)}") from error
    _require_no_nulls(table, str(path))
    return table


def read_foreign(path: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file that anyone may have made; of `columns`, those that it has."""
    if not path.is_file():
        raise MissingInput(f"{path}: no such file")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            chosen = names if columns is None else [name for name in columns if name in names]
            return file.read(columns=chosen)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ShardCorrupt(f"{path}: not a sound Parquet file ({first_line(error)})") from error


def read_rows(
    path: Path, schema: pa.Schema, *, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Read one of our own tables as dicts."""
    return list(read_table(path, schema, columns=columns).to_pylist())


def read_parts(
    paths: Iterable[Path], schema: pa.Schema, *, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read several parts, in the order given, as one table."""
    tables = [read_table(path, schema, columns=columns) for path in paths]
    fields = [schema.field(name) for name in (columns or schema.names)]
    return pa.concat_tables(tables) if tables else pa.schema(fields).empty_table()


def iter_tables(
    path: Path, schema: pa.Schema, *, columns: Sequence[str] | None = None, rows: int = 1 << 20
) -> Iterator[pa.Table]:
    """Read one of our own tables as `read_table` does, at most `rows` at a time."""
    wanted = pa.schema([schema.field(name) for name in (columns or schema.names)])
    if not path.is_file():
        raise MissingInput(f"{path}: no such file")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            missing = [name for name in wanted.names if name not in file.schema_arrow.names]
            if missing:
                raise SchemaMismatch(
                    f"{path}: no column {', '.join(missing)}; made by another version?"
                )
            for batch in file.iter_batches(rows, columns=wanted.names):
                table = pa.Table.from_batches([batch]).select(wanted.names).cast(wanted)
                _require_no_nulls(table, str(path))
                yield table
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ShardCorrupt(f"{path}: not a sound Parquet file ({first_line(error)})") from error


def _require_no_nulls(table: pa.Table, where: str) -> None:
    for field in table.schema:
        if not field.nullable and table.column(field.name).null_count:
            raise SchemaMismatch(f"{where}: column {field.name} has missing values")
