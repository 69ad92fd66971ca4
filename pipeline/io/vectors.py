"""Embeddings that another tool made: found, checked, read and written.

Two layouts: clip-retrieval's, where row i of img_emb/img_emb_N.npy belongs to row i of
metadata/metadata_N.parquet, and Parquet files with a column of lists beside their ids, as NeMo
Curator and embedding-reader have them.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import InputError, MissingInput, SchemaMismatch, ShardCorrupt, first_line
from pipeline.io.atomic import atomic_path
from pipeline.io.shards import find_shards, local_places, matching, unique_names
from pipeline.io.tables import read_foreign

LIST_COLUMNS = ("embedding", "embeddings")
"""Names under which a Parquet file holds its vectors, in order of preference."""
ID_COLUMNS = ("id", "image_id", "image_path", "key", "uid")
_PAIRED_ID_COLUMNS = ("image_path", "key", "id", "image_id", "uid")
_ROW_COLUMNS = {
    "uid": ("uid", "id", "image_id"),
    "url": ("url", "URL"),
    "caption": ("caption", "text", "TEXT"),
    "sha256": ("sha256",),
    "width": ("width", "original_width"),
    "height": ("height", "original_height"),
}
_NPY = re.compile(r"img_emb_(\d{1,18})\.npy")
_METADATA = re.compile(r"metadata_(\d{1,18})\.parquet")
_WIDTHS = {2: np.float16, 4: np.float32, 8: np.float64}  # bytes of a component
_ROWS_AT_ONCE = 1 << 14

Vectors = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class VectorFile:
    """Vectors and the table of their rows: two files, or twice the same Parquet."""

    number: int
    name: str
    vectors: Path
    metadata: Path

    @property
    def paired(self) -> bool:
        """Whether rows correspond by their place in two files."""
        return self.vectors != self.metadata


def are_vectors(addresses: Sequence[str]) -> bool:
    """Whether embeddings lie at some of the addresses, and a tar at none."""
    return not _any_found(find_shards, addresses) and _any_found(_find_vectors, addresses)


def find_vector_files(addresses: Sequence[str]) -> list[VectorFile]:
    """Expand folders, globs and braces to files of vectors, in the order of paths and numbers.

    Raises MissingInput where an address has none, InputError for a file without its counterpart.
    """
    found: dict[tuple[Path, Path], tuple[str, str]] = {}
    for address in addresses:
        here = {
            (vectors.resolve(), metadata.resolve()): (vectors.stem, f"{folder}-{vectors.stem}")
            for place in local_places(address)
            for folder, vectors, metadata in _files_at(place)
        }
        if not here:
            raise MissingInput(f"{address}: no img_emb/img_emb_N.npy and no .parquet file there")
        found |= here
    ordered = sorted(found, key=lambda files: (files[0].parent, _number(files[0]), files[0].name))
    names = unique_names(*([found[files][i] for files in ordered] for i in (0, 1)))
    return [VectorFile(i, names[i], *files) for i, files in enumerate(ordered)]


def count_vectors(file: VectorFile) -> int:
    """The rows of a file, read off its headers.

    Raises ShardCorrupt where vectors and table disagree, SchemaMismatch for a missing column.
    """
    try:
        with pq.ParquetFile(file.metadata) as table:
            rows, schema = int(table.metadata.num_rows), table.schema_arrow
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = first_line(error)
        raise ShardCorrupt(f"{file.metadata}: not a sound Parquet file ({reason})") from error
    _first_of(schema.names, _ids(file), file.metadata)
    if file.paired:
        vectors = len(_open_npy(file.vectors))
        if vectors != rows:
            raise ShardCorrupt(
                f"{file.vectors} has {vectors} rows, {file.metadata} {rows}; row i of one belongs "
                "to row i of the other"
            )
    else:
        name = _first_of(schema.names, LIST_COLUMNS, file.vectors)
        _require_lists(schema.field(name).type, file.vectors)
    return rows


def read_vectors(file: VectorFile) -> Vectors:
    """The vectors (n, d): a memory map of the npy, or an array in the precision of the lists.

    A row whose list is missing, or is not as long as most, is NaN.
    """
    return _open_npy(file.vectors) if file.paired else _from_lists(file.vectors)


def read_rows_of(file: VectorFile) -> dict[str, list[Any]]:
    """The columns key, uid, url, caption and sha256 (text), width and height (pixels), as lists.

    What a table does not have, or has in another type, is None in every row.
    """
    names = [name for choices in _ROW_COLUMNS.values() for name in choices]
    table = read_foreign(file.metadata, columns=[*dict.fromkeys([*_ids(file), *names])])
    try:
        table.validate(full=True)  # text that is not UTF-8 would fail later, and in one row
    except pa.ArrowException as error:
        raise ShardCorrupt(f"{file.metadata}: {first_line(error)}") from error
    key = _first_of(table.column_names, _ids(file), file.metadata)
    columns: dict[str, list[Any] | None] = {"key": _texts(table.column(key))}
    if columns["key"] is None:
        raise SchemaMismatch(
            f"{file.metadata}: column {key} is {table.schema.field(key).type}, not text or numbers"
        )
    for name, choices in _ROW_COLUMNS.items():
        kind: Callable[[pa.ChunkedArray], list[Any] | None]
        kind = _sizes if name in ("width", "height") else _texts
        found = (kind(table.column(c)) for c in choices if table.column_names.count(c) == 1)
        columns[name] = next((values for values in found if values is not None), None)
    return {name: values or [None] * table.num_rows for name, values in columns.items()}


def key_column(file: VectorFile) -> str:
    """The column of the table that `read_rows_of` gives as key."""
    with pq.ParquetFile(file.metadata) as table:
        return _first_of(table.schema_arrow.names, _ids(file), file.metadata)


def write_vectors(path: Path, vectors: Vectors, rows: Sequence[int]) -> None:
    """Write the chosen rows as npy, atomically and a block at a time; fp16 and fp32 as they are."""
    narrow = vectors.dtype.itemsize < 8  # doubles that were judged sound still fit no float32
    dtype = vectors.dtype.newbyteorder("<") if narrow else np.dtype("<f4")
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (len(rows), vectors.shape[1]),
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            block = vectors[np.asarray(rows[start : start + _ROWS_AT_ONCE])]
            if not narrow:
                block = block / np.linalg.norm(block, axis=1, keepdims=True)
            file.write(np.ascontiguousarray(block, dtype).tobytes())


def norms(vectors: Vectors) -> npt.NDArray[np.float64]:
    """The length (n,) of each vector in float64; NaN or infinite where a component is."""
    lengths = np.empty(len(vectors))
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        block = np.asarray(vectors[start : start + _ROWS_AT_ONCE], np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths[start : start + len(block)] = np.sqrt(np.square(block).sum(axis=1))
    return lengths


def vector_digests(vectors: Vectors) -> list[str]:
    """The SHA-256 of each vector's bytes, in its own precision and little-endian.

    Equal digests are equal vectors; 0 and -0 are not, which no encoder gives in the same place.
    """
    digests: list[str] = []
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        block = np.asarray(vectors[start : start + _ROWS_AT_ONCE])
        block = np.ascontiguousarray(block, block.dtype.newbyteorder("<"))
        digests += [hashlib.sha256(row).hexdigest() for row in block]
    return digests


def _find_vectors(addresses: Sequence[str]) -> list[VectorFile]:
    """Files with vectors as far as their headers tell: a Parquet of another kind is none."""
    return [file for file in find_vector_files(addresses) if file.paired or _has_lists(file)]


def _has_lists(file: VectorFile) -> bool:
    try:
        names = pq.read_schema(file.vectors).names
    except (OSError, ValueError, pa.ArrowException):
        return True  # damaged, which count_vectors says
    return any(name in names for name in LIST_COLUMNS)


def _any_found(find: Callable[[Sequence[str]], Sequence[Any]], addresses: Sequence[str]) -> bool:
    for address in addresses:
        try:
            found = find([address])
        except MissingInput:
            continue
        if found:
            return True
    return False


def _files_at(place: Path) -> Iterator[tuple[str, Path, Path]]:
    """The name of the folder, the vectors and the table of each file."""
    for hit in sorted(matching(place)):
        if (hit / "img_emb").is_dir():
            yield from ((hit.resolve().name, *files) for files in _clip_retrieval(hit))
            continue
        tables = sorted(hit.glob("*.parquet")) if hit.is_dir() else [hit]
        for path in tables:
            if path.suffix == ".parquet" and path.is_file():
                yield path.resolve().parent.name, path, path


def _clip_retrieval(folder: Path) -> Iterator[tuple[Path, Path]]:
    vectors = _by_number(folder / "img_emb", _NPY)
    tables = _by_number(folder / "metadata", _METADATA)
    for number in sorted({*vectors, *tables}):
        if number not in tables:
            digits = vectors[number].stem.removeprefix("img_emb_")
            missing = folder / "metadata" / f"metadata_{digits}.parquet"
            raise InputError(f"{vectors[number]}: its counterpart {missing} is not there")
        if number not in vectors:
            digits = tables[number].stem.removeprefix("metadata_")
            missing = folder / "img_emb" / f"img_emb_{digits}.npy"
            raise InputError(f"{tables[number]}: its counterpart {missing} is not there")
        yield vectors[number], tables[number]


def _by_number(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("*")):
        if match := pattern.fullmatch(path.name):
            if (number := int(match[1])) in found:
                raise InputError(f"{path}: {found[number].name} has the same number")
            found[number] = path
    return found


def _number(path: Path) -> int:
    match = _NPY.fullmatch(path.name)
    return int(match[1]) if match else -1


def _ids(file: VectorFile) -> tuple[str, ...]:
    return _PAIRED_ID_COLUMNS if file.paired else ID_COLUMNS


def _first_of(names: Sequence[str], wanted: Iterable[str], path: Path) -> str:
    for name in wanted:
        if names.count(name) > 1:
            raise SchemaMismatch(f"{path}: {names.count(name)} columns are named {name}")
        if name in names:
            return name
    found = ", ".join(names)[:200]
    raise SchemaMismatch(f"{path}: no column {' or '.join(wanted)}; it has {found}")


def _open_npy(path: Path) -> Vectors:
    try:
        with np.errstate(over="ignore"):  # a header may claim any shape
            vectors = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise ShardCorrupt(f"{path}: not a sound npy file ({first_line(error)})") from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or vectors.dtype.itemsize not in _WIDTHS:
        found = f"{vectors.dtype} {vectors.shape}"
        raise ShardCorrupt(f"{path}: {found}, expected float16 or float32 (rows, width)")
    return vectors


def _from_lists(path: Path) -> Vectors:
    table = read_foreign(path, columns=LIST_COLUMNS)
    column = table.column(_first_of(table.column_names, LIST_COLUMNS, path))
    kind = column.type
    _require_lists(kind, path)
    lengths = [
        np.asarray(pc.list_value_length(chunk).fill_null(-1), np.int64) for chunk in column.chunks
    ]
    every = np.concatenate([*lengths, np.zeros(0, np.int64)])
    values, counts = np.unique(every[every > 0], return_counts=True)
    width = int(values[counts.argmax()]) if len(values) else 0
    dtype = _WIDTHS[kind.value_type.bit_width // 8]
    vectors = np.full((len(every), width), np.nan, dtype)
    start = 0
    for chunk, of_chunk in zip(column.chunks, lengths, strict=True):
        whole = of_chunk == width
        flat = pc.list_flatten(chunk.filter(pa.array(whole)))
        block = flat.to_numpy(zero_copy_only=False).reshape(int(whole.sum()), width)
        vectors[start : start + len(chunk)][whole] = block
        start += len(chunk)
    return vectors


def _require_lists(kind: pa.DataType, path: Path) -> None:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(kind) for is_kind in lists) or not pa.types.is_floating(kind.value_type):
        raise SchemaMismatch(f"{path}: vectors are {kind}, expected lists of float16, 32 or 64")


def _texts(column: pa.ChunkedArray) -> list[str | None] | None:
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    known = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
    if not any(is_kind(kind) for is_kind in known):
        return None
    return list(pc.cast(column, pa.string()).to_pylist())


def _sizes(column: pa.ChunkedArray) -> list[int | None] | None:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    return [
        int(value) if value is not None and 1 <= value < 1 << 31 else None
        for value in column.to_pylist()
    ]
