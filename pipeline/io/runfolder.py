"""Where everything lies in a run folder, and how the shared tables are read.

Stages write through these names and read each other's output through these functions.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from indexes import unit
from pipeline.errors import MissingInput, ShardCorrupt
from pipeline.io import schemas
from pipeline.io.images import ImageLimits, decode
from pipeline.io.shards import read_member
from pipeline.io.tables import read_parts, read_table

FETCHED = "fetched"
REKEYED = "images/rekeyed.parquet"
ADOPTED = "onto/adopted.json"
OLD_DUPLICATES = "onto/duplicates.parquet"
DUPLICATES = "duplicates.parquet"
GROUPS = "groups.parquet"
CAPTION_GROUPS = "caption_groups.parquet"
ALTERNATIVES = "export/captions.parquet"
ASKED = "asked.parquet"
IMAGES_ASKED = "images_asked.parquet"
PROMPTS = "prompts.parquet"
PROMPTS_REJECTED = "prompts_rejected.parquet"
SCREEN = "screen.parquet"
PROBES = "probes.parquet"
CLUSTERS = "clusters.parquet"
MATCHES = "matches.parquet"
VERDICTS = "verdicts.parquet"
FINDINGS = "findings.parquet"
EXTRACTED = "extracted.parquet"
PLANTED = "planted.parquet"
VERIFICATION = "verification.parquet"
NEARNESS = "nearness.parquet"
CONTAMINATED = "export/contaminated.parquet"

ACCEPTED = "ok"
EXACT, VERIFIED = "exact", "verified"
"""Folders of pairs that are of no encoder."""


def part_name(number: int) -> str:
    """Zero-padded, so that names sort as numbers."""
    return f"{number:05d}"


def image_part(name: str) -> str:
    """The manifest of one shard."""
    return f"images/part-{name}.parquet"


DIGESTS = ("sha256", "pixel_sha256", "vector_sha256")
"""The columns of the manifest that tell exact copies: of the file, its pixels, a given vector."""


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


@dataclass(frozen=True)
class EmbeddingPart:
    """The three files of one shard and one encoder; rows of the first two correspond."""

    encoder: str
    name: str

    @property
    def vectors(self) -> str:
        """npy, (n, d)."""
        return f"embeddings/{self.encoder}/img_emb/img_emb_{self.name}.npy"

    @property
    def metadata(self) -> str:
        """Parquet, n rows with image_id."""
        return f"embeddings/{self.encoder}/metadata/metadata_{self.name}.parquet"

    @property
    def text_vectors(self) -> str:
        """npy, (n, d) of the captions, where the encoder reads them; zero where there is none."""
        return f"embeddings/{self.encoder}/text_emb/text_emb_{self.name}.npy"

    @property
    def clip_similarity(self) -> str:
        """Parquet, n rows: how near each caption is to its picture."""
        return f"embeddings/{self.encoder}/clip_similarity/clip_similarity_{self.name}.parquet"

    @property
    def rejected(self) -> str:
        """Parquet, the rows that have no vector, with reasons."""
        return f"embeddings/{self.encoder}/rejected/rejected_{self.name}.parquet"


def current_groups(duplicates: pa.Table) -> npt.NDArray[np.int64]:
    """The group of each row of duplicates.parquet, those that a later run joined taken as one."""
    groups = pc.coalesce(duplicates["merged_into"], duplicates["group_id"])
    return np.asarray(groups.to_numpy(), np.int64)


def placeholder_groups(run: Path) -> set[int]:
    """Groups that stand for missing pictures; none in a run of an earlier version."""
    if not (run / GROUPS).is_file():
        return set()
    rows = read_table(run / GROUPS, schemas.GROUPS, columns=["group_id", "placeholder"])
    return set(rows.filter(rows["placeholder"])["group_id"].to_pylist())


def first_own_part(run: Path) -> int:
    """The number of the first part that is not another run's, which this one was added to."""
    path = run / ADOPTED
    return int(json.loads(path.read_bytes())["first_own_part"]) if path.is_file() else 0


def own_image_parts(run: Path) -> list[str]:
    """`list_image_parts` without those of the run that this one was added to."""
    first = first_own_part(run)
    return [name for name in list_image_parts(run) if int(name) >= first]


def read_own_ids(run: Path) -> npt.NDArray[np.int64] | None:
    """Accepted pictures that the run added to another, ascending; None where it is not so made."""
    if not (run / ADOPTED).is_file():
        return None
    parts = own_image_parts(run)
    return np.sort(read_images(run, parts, columns=["image_id"])["image_id"].to_numpy())


def list_image_parts(run: Path) -> list[str]:
    """Names of the manifest's parts, in order. Raises MissingInput where there are none."""
    paths = sorted(run.glob(image_part("*")))
    if not paths:
        raise MissingInput(f"{run}: no images/part-*.parquet; run `unmemorize dedup` first")
    return [path.stem.removeprefix("part-") for path in paths]


def list_embedding_parts(run: Path, encoder: str) -> list[EmbeddingPart]:
    """An encoder's parts, in order. Raises MissingInput where there are none."""
    paths = sorted(run.glob(EmbeddingPart(encoder, "*").metadata))
    if not paths:
        raise MissingInput(f"{run}: no embeddings of {encoder}; run the embed stage with it")
    return [EmbeddingPart(encoder, path.stem.removeprefix("metadata_")) for path in paths]


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
    schema = schemas.HASH_METADATA if trimmed else schemas.EMBEDDING_METADATA
    columns = ["image_id", "key", "quality", *(_TRIMMED if trimmed else ())]
    ids, vectors = [], []
    widths: dict[int, Path] = {}
    nothing: npt.NDArray[Any] = np.zeros((0, 1), np.float32)
    changes = _changes(run)
    for part in list_embedding_parts(run, encoder):
        if parts is not None and part.name not in parts:
            continue
        rows = read_table(run / part.metadata, schema, columns=columns)
        own = _rekeyed_ids(run, part.name, rows, changes)
        blocks = [(own, load_vectors(run / part.vectors, rows.num_rows), rows["quality"])]
        if trimmed:
            bordered = rows["trimmed"].is_valid().to_numpy()
            inside = rows.filter(bordered)
            codes = np.frombuffer(b"".join(inside["trimmed"].to_pylist()), np.uint8)
            blocks.append((own[bordered], codes.reshape(-1, 32), inside["trimmed_quality"]))
        for some, block, quality in blocks:
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


def map_embeddings(
    run: Path, encoder: str, scratch: Path, *, among: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """All ids (n,) of an encoder, or those `among` some, ascending, and their vectors (n, d).

    The vectors are as stored and lie mapped in the npy that is made at `scratch`; in memory is one
    part at a time. Raises ShardCorrupt where parts differ in width.
    """
    files, changes = list_embedding_parts(run, encoder), _changes(run)
    own = [_rekeyed_ids(run, file.name, _rows_of_part(run, file), changes) for file in files]
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


class TrainingImages:
    """Random access to accepted training pictures, by image id, decoded to small squares."""

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
        """The file's bytes as they lie in the shard."""
        row = self.row(image_id)
        with self._shards[row["shard"]].open("rb") as handle:
            return read_member(handle, row["offset"], row["size"])

    def picture(self, image_id: int) -> Any:
        """The decoded picture (PIL, RGB)."""
        return decode(self.data(image_id), self._limits)


def _changes(run: Path) -> dict[tuple[str, str], int]:
    """The ids that replace colliding ones, by shard and key: nearly always none."""
    if not (run / REKEYED).is_file():
        return {}
    rows = read_table(run / REKEYED, schemas.REKEYED).to_pylist()
    return {(row["shard"], row["key"]): row["new_image_id"] for row in rows}


def _rekeyed_ids(
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
    changes = _changes(run) if "image_id" in table.column_names else {}
    if not changes:
        return table
    places = zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True)
    ids = [
        changes.get(place, old)
        for place, old in zip(places, table["image_id"].to_pylist(), strict=True)
    ]
    column = table.schema.get_field_index("image_id")
    return table.set_column(column, table.schema.field(column), pa.array(ids, pa.int64()))


def index_folder(encoder: str) -> str:
    """Where an encoder's FAISS index lies."""
    return f"index/{encoder}"


def pair_part(encoder: str, name: str) -> str:
    """One block of an encoder's near-duplicate pairs."""
    return f"pairs/{encoder}/part-{name}.parquet"


HUBS_PART = "hubs"
"""The name of the part of an encoder's pairs that holds the stars of its hubs."""


def old_hubs_file(encoder: str) -> str:
    """The hubs of the run that this one was added to."""
    return f"onto/hubs/{encoder}.parquet"


def hubs_file(encoder: str) -> str:
    """Who belongs to which hub of an encoder: in the join only its leader takes part."""
    return f"hubs/{encoder}.parquet"


def read_hub_members(run: Path, encoder: str) -> npt.NDArray[np.int64]:
    """The members of an encoder's hubs, leaders left out, ascending."""
    path = run / hubs_file(encoder)
    if not path.is_file():
        return np.zeros(0, np.int64)
    table = read_table(path, schemas.HUBS)
    members = table.filter(pc.not_equal(table["leader_id"], table["image_id"]))["image_id"]
    return np.sort(members.to_numpy())


def recall_file(encoder: str) -> str:
    """What share of an encoder's true pairs the run found."""
    return f"recall/{encoder}.json"


def list_pairs(run: Path) -> list[str]:
    """All pair tables, relative to the run folder, in order."""
    return sorted(path.relative_to(run).as_posix() for path in run.glob(pair_part("*", "*")))


def eval_run(run: Path, number: int) -> Path:
    """The run folder inside a run that holds an evaluation set of its own."""
    return run / "against" / part_name(number)


def contamination_part(name: str) -> str:
    """The pictures of one shard that evaluation sets hold too."""
    return f"contamination/part-{name}.parquet"
