"""The manifest of a run folder: its rows, exact copies among them, and the pictures behind them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from pipeline.errors import MissingInput
from pipeline.io import schemas
from pipeline.io.images import ImageLimits, decode
from pipeline.io.runfolder import (
    ACCEPTED,
    ADOPTED,
    REKEYED,
    image_part,
    list_image_parts,
    own_image_parts,
)
from pipeline.io.shards import read_member
from pipeline.io.tables import read_parts, read_table

DIGESTS = ("sha256", "pixel_sha256", "vector_sha256")
"""The columns of the manifest that tell exact copies: of the file, its pixels, a given vector."""


def read_images(
    run: Path,
    parts: Sequence[str] | None = None,
    *,
    columns: Sequence[str] | None = None,
    accepted_only: bool = True,
) -> pa.Table:
    """The manifest, with colliding ids replaced; by default the accepted rows only."""
    wanted = list(dict.fromkeys([*(columns or schemas.IMAGES.names), "shard", "key", "status"]))
    names = list_image_parts(run) if parts is None else parts
    paths = [run / image_part(name) for name in names]
    table = _rekey(run, read_parts(paths, schemas.IMAGES, columns=wanted))
    if accepted_only:
        table = table.filter(pc.equal(table["status"], ACCEPTED))
    return table.select(list(columns or schemas.IMAGES.names))


def count_accepted(run: Path, parts: Sequence[str] | None = None) -> int:
    """How many rows of the manifest, or of `parts` of it, are accepted; read a part at a time."""
    names = list_image_parts(run) if parts is None else parts
    paths = (run / image_part(name) for name in names)
    tables = (read_table(path, schemas.IMAGES, columns=["status"]) for path in paths)
    return sum(pc.sum(pc.equal(table["status"], ACCEPTED)).as_py() or 0 for table in tables)


def read_own_ids(run: Path) -> npt.NDArray[np.int64] | None:
    """Accepted pictures that the run added to another, ascending; None where it is not so made."""
    if not (run / ADOPTED).is_file():
        return None
    parts = own_image_parts(run)
    return np.sort(read_images(run, parts, columns=["image_id"])["image_id"].to_numpy())


def exact_keys(images: pa.Table) -> npt.NDArray[np.int64]:
    """Numbers (n,), equal where two rows of the manifest are exact copies, by any of DIGESTS.

    Equal bytes imply equal pixels, so that pixels alone decide where all were looked at. Where only
    a vector was given: equal bytes, if their digest was given too, or equal vectors.
    """
    codes = {name: _codes(images[name]) for name in DIGESTS}
    if (codes["pixel_sha256"] >= 0).all():
        return codes["pixel_sha256"]
    n = last = images.num_rows
    rows, digests = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for numbers in codes.values():  # a graph of rows and digests: copies are joined by a digest
        known = np.flatnonzero(numbers >= 0)
        rows.append(known)
        digests.append(last + numbers[known])
        last += int(numbers.max(initial=-1)) + 1
    ends = np.concatenate(rows), np.concatenate(digests)
    graph = sparse.coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(last, last))
    _, component = sparse.csgraph.connected_components(graph, directed=False)
    return np.asarray(component[:n], np.int64)


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number for each distinct text, -1 for none."""
    indices = pc.dictionary_encode(column.combine_chunks()).indices
    return np.asarray(pc.fill_null(indices, -1).to_numpy(zero_copy_only=False), np.int64)


def read_centres(run: Path) -> npt.NDArray[np.int64]:
    """One id of each class of exact copies: the smallest.

    Where the run was added to another, the smallest of that one's, whose pairs are known.
    """
    images = read_images(run, columns=["image_id", *DIGESTS])
    ids: npt.NDArray[np.int64] = images["image_id"].to_numpy()
    own = read_own_ids(run)
    added = np.zeros(len(ids), bool) if own is None else np.isin(ids, own)
    _, classes = np.unique(exact_keys(images), return_inverse=True)
    order = np.lexsort((ids, added, classes))
    _, first = np.unique(classes[order], return_index=True)
    return np.sort(ids[order[first]])


class TrainingImages:
    """Random access to accepted training pictures, by image id."""

    def __init__(self, run: Path, shards: dict[str, Path], limits: ImageLimits) -> None:
        names = ["image_id", "shard", "key", "offset", "size", "caption"]
        table = read_images(run, columns=names)
        self._shards, self._limits = shards, limits
        self._ids = table["image_id"].to_numpy()
        self._order = np.argsort(self._ids)
        self._rows = table

    def row(self, image_id: int) -> dict[str, Any]:
        """The manifest's row of a picture."""
        place = int(np.searchsorted(self._ids, image_id, sorter=self._order))
        if place == len(self._ids) or self._ids[self._order[place]] != image_id:
            raise MissingInput(f"image {image_id} is not in the manifest")
        return dict(self._rows.slice(int(self._order[place]), 1).to_pylist()[0])

    def data(self, image_id: int) -> bytes:
        """The file's bytes as they lie in the shard. Raises MissingInput where that is gone."""
        row = self.row(image_id)
        if row["shard"] not in self._shards:
            raise MissingInput(f"image {image_id}: its shard {row['shard']} is not there any more")
        with self._shards[row["shard"]].open("rb") as handle:
            return read_member(handle, row["offset"], row["size"])

    def picture(self, image_id: int) -> Any:
        """The decoded picture (PIL, RGB)."""
        return decode(self.data(image_id), self._limits)


def id_changes(run: Path) -> dict[tuple[str, str], int]:
    """The ids that replace colliding ones, by shard and key: nearly always none."""
    if not (run / REKEYED).is_file():
        return {}
    rows = read_table(run / REKEYED, schemas.REKEYED).to_pylist()
    return {(row["shard"], row["key"]): row["new_image_id"] for row in rows}


def rekeyed_ids(
    run: Path, part: str, rows: pa.Table, changes: Mapping[tuple[str, str], int]
) -> npt.NDArray[np.int64]:
    """The ids of an embedding part; ingested ones were written before collisions were known."""
    ids: npt.NDArray[np.int64] = rows["image_id"].to_numpy()
    if not changes or not len(ids):
        return ids
    table = read_table(run / image_part(part), schemas.IMAGES, columns=["shard"])
    shard = table["shard"][0].as_py()
    pairs = zip(rows["key"].to_pylist(), ids.tolist(), strict=True)
    return np.array([changes.get((shard, key), old) for key, old in pairs], np.int64)


def _rekey(run: Path, table: pa.Table) -> pa.Table:
    changes = id_changes(run) if "image_id" in table.column_names else {}
    if not changes:
        return table
    places = zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True)
    ids = [
        changes.get(place, old)
        for place, old in zip(places, table["image_id"].to_pylist(), strict=True)
    ]
    column = table.schema.get_field_index("image_id")
    return table.set_column(column, table.schema.field(column), pa.array(ids, pa.int64()))
