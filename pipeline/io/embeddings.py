"""The embeddings of a run folder, read or mapped, all parts of an encoder together."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexes import unit
from pipeline.errors import ShardCorrupt
from pipeline.io import schemas
from pipeline.io.manifest import id_changes, rekeyed_ids
from pipeline.io.runfolder import EmbeddingPart, list_embedding_parts
from pipeline.io.tables import read_table

_TRIMMED = ("trimmed", "trimmed_quality")


def read_embeddings(
    run: Path,
    encoder: str,
    parts: Collection[str] | None = None,
    *,
    normalise: bool,
    min_quality: float | None = None,
    trimmed: bool = False,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """All ids (n,) and vectors (n, d) of an encoder, sorted by id; of `parts` where given.

    Stored halves are widened to fp32; `normalise` rescales them to unit norm, which fp16 loses.
    `min_quality` leaves out rows of less. With `trimmed` the hashes of what borders enclose are
    rows, too, so that an id may come twice. Raises ShardCorrupt where parts differ in width.
    """
    ids, vectors = [], []
    widths: dict[int, Path] = {}
    nothing: npt.NDArray[Any] = np.zeros((0, 1), np.float32)
    changes = id_changes(run)
    for part in list_embedding_parts(run, encoder):
        if parts is not None and part.name not in parts:
            continue
        for some, block, quality in _blocks(run, part, changes, trimmed=trimmed):
            nothing = block[:0] if block.dtype == np.uint8 else nothing  # hashes stay hashes
            chosen = np.ones(len(some), bool)
            if min_quality is not None:
                chosen = ~(quality.to_numpy() < min_quality)
            if len(some):  # a part that lost all rows has no width of its own
                widths.setdefault(block.shape[1], run / part.vectors)
                vectors.append(block[chosen])
                ids.append(some[chosen])
    _require_one_width(widths)
    if not vectors:
        return np.zeros(0, np.int64), nothing
    all_ids, stacked = np.concatenate(ids), np.concatenate(vectors)
    if stacked.dtype == np.float16:
        stacked = stacked.astype(np.float32)
    if normalise:
        stacked = unit(stacked)
    order = np.argsort(all_ids, kind="stable")
    return all_ids[order], stacked[order]


def _blocks(
    run: Path, part: EmbeddingPart, changes: Mapping[tuple[str, str], int], *, trimmed: bool
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any], pa.ChunkedArray]]:
    """Ids, vectors and qualities of a part: of the pictures, then of what borders enclose."""
    schema = schemas.HASH_METADATA if trimmed else schemas.EMBEDDING_METADATA
    columns = ["image_id", "key", "quality", *(_TRIMMED if trimmed else ())]
    rows = read_table(run / part.metadata, schema, columns=columns)
    ids = rekeyed_ids(run, part.name, rows, changes)
    yield ids, load_vectors(run / part.vectors, rows.num_rows), rows["quality"]
    if trimmed:
        bordered = rows["trimmed"].is_valid().to_numpy()
        inside = rows.filter(bordered)
        codes = np.frombuffer(b"".join(inside["trimmed"].to_pylist()), np.uint8)
        yield ids[bordered], codes.reshape(-1, 32), inside["trimmed_quality"]


def map_embeddings(
    run: Path, encoder: str, scratch: Path, *, among: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """All ids (n,) of an encoder, or those `among` some, ascending, and their vectors (n, d).

    The vectors are as stored and lie mapped in the npy that is made at `scratch`; in memory is one
    part at a time. Raises ShardCorrupt where parts differ in width.
    """
    files, changes = list_embedding_parts(run, encoder), id_changes(run)
    own = [rekeyed_ids(run, file.name, _rows_of_part(run, file), changes) for file in files]
    ids = np.sort(np.concatenate([np.zeros(0, np.int64), *own]))
    if among is not None:
        ids = ids[np.isin(ids, among, assume_unique=True)]
    mapped: Any = None
    widths: dict[int, Path] = {}
    for file, of_part in zip(files, own, strict=True):
        block = load_vectors(run / file.vectors, len(of_part))
        if mapped is None or not len(mapped):  # a part without rows has no width of its own
            shape = (len(ids) if len(block) else 0, block.shape[1])
            mapped = np.lib.format.open_memmap(scratch, "w+", block.dtype, shape)
        if not len(block):
            continue
        widths.setdefault(block.shape[1], run / file.vectors)
        _require_one_width(widths)
        chosen = np.isin(of_part, ids)
        mapped[np.searchsorted(ids, of_part[chosen])] = block[chosen]
    return ids, mapped


def _require_one_width(widths: Mapping[int, Path]) -> None:
    """`widths` names the first file of each width."""
    if len(widths) > 1:
        (wide, first), (narrow, second), *_ = widths.items()
        raise ShardCorrupt(f"{first} is {wide} wide, {second} {narrow}; not of one encoder")


def _rows_of_part(run: Path, file: EmbeddingPart) -> pa.Table:
    return read_table(run / file.metadata, schemas.EMBEDDING_METADATA, columns=["image_id", "key"])


def load_vectors(path: Path, rows: int, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Read, or map, an npy of `rows` rows; raises ShardCorrupt where it is not that."""
    try:
        vectors = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ShardCorrupt(f"{path}: not a sound npy file ({error})") from error
    if vectors.ndim != 2 or len(vectors) != rows:
        raise ShardCorrupt(f"{path}: {vectors.shape}, expected {rows} rows beside its metadata")
    return vectors
