"""ingest: embeddings that another tool made in, manifest and vectors out: for scan and embed.

No picture is looked at. A row is accepted if its vector has a direction and its key is its own;
else it has a reason. Vectors keep their precision (fp16 or fp32), and rows are sorted by key, so
that the order in which they came does not matter.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import GIVEN
from pipeline.errors import ShardCorrupt
from pipeline.ids import normalize_caption
from pipeline.increment import after_earlier, first_number
from pipeline.io import schemas
from pipeline.io.runfolder import ACCEPTED, EmbeddingPart, image_part, part_name
from pipeline.io.tables import table_from_columns, write_table
from pipeline.io.vectors import (
    VectorFile,
    count_vectors,
    find_vector_files,
    norms,
    read_rows_of,
    read_vectors,
    vector_digests,
    write_vectors,
)
from pipeline.runner.part import Context, Outcome, Part, Stage, reject_counts, relative
from pipeline.stages.scan import assign_ids

_MIN_NORM = 1e-6
_MAX_KEY_CHARS = 4096
_SHA256 = re.compile("[0-9a-f]{64}")

Columns = dict[str, list[Any]]


def plan(context: Context) -> list[Part]:
    """One part a file, until `limit` rows are reached; all headers are read before any work."""
    parts = []
    remaining = context.config.limit
    for file in own_vector_files(context):
        rows = count_vectors(file)
        if remaining is not None and remaining <= 0:
            break
        files = dict.fromkeys((file.vectors, file.metadata))
        params = {"number": file.number, "shard": file.name, "limit": remaining}
        inputs = tuple(relative(path, context.run) for path in files)
        parts.append(Part(part_name(file.number), inputs, params))
        if remaining is not None:
            remaining -= rows
    return parts


def vector_files_of(context: Context) -> list[VectorFile]:
    """The files of vectors, those of the run that this one was added to first."""
    own = find_vector_files(context.config.dataset.shards)
    return after_earlier(own, vector_files_of, context)


def own_vector_files(context: Context) -> list[VectorFile]:
    """`vector_files_of` without those of the run that this one was added to."""
    first = first_number(context)
    return [file for file in vector_files_of(context) if file.number >= first]


def run(part: Part, context: Context) -> Outcome:
    """Write the manifest and the vectors of one file."""
    paths = [context.path(name) for name in part.inputs]
    file = VectorFile(part.params["number"], part.params["shard"], paths[0], paths[-1])
    columns, vectors = read_rows_of(file), read_vectors(file)
    if len(vectors) != len(columns["key"]):
        raise ShardCorrupt(f"{file.vectors} is no longer as long as {file.metadata}")
    limit = part.params["limit"]
    vectors, columns = vectors[:limit], {name: c[:limit] for name, c in columns.items()}
    columns |= _judged(columns["key"], norms(vectors))
    columns["caption"] = [
        normalize_caption(text or "")[: context.config.scan.max_caption_chars]
        for text in columns["caption"]
    ]
    columns["sha256"] = [_digest(text) for text in columns["sha256"]]
    columns["vector_sha256"] = vector_digests(vectors)
    order = _order(columns)
    columns = {name: [values[i] for i in order] for name, values in columns.items()}
    columns["image_id"] = assign_ids(columns["key"], context.config.dataset.name, file.name)
    accepted = [i for i, reason in enumerate(columns["reason"]) if not reason]
    image_path = image_part(part.name)
    embedding = EmbeddingPart(GIVEN, part.name)
    _write_images(context.path(image_path), columns, context.config.dataset.name, file.name)
    _write_metadata(context.path(embedding.metadata), columns, accepted)
    write_vectors(context.path(embedding.vectors), vectors, [order[i] for i in accepted])
    outputs = (image_path, embedding.vectors, embedding.metadata)
    rejected = reject_counts([reason for reason in columns["reason"] if reason])
    return Outcome(outputs, len(order), len(accepted), rejected)


def _judged(keys: list[str | None], lengths: np.ndarray[Any, Any]) -> Columns:
    """The columns key (never missing), reason and detail."""
    counts = Counter(keys)
    repeated = [counts[key] > 1 for key in keys]
    finite, zero = np.isfinite(lengths), lengths <= _MIN_NORM
    judged: Columns = {"key": [(key or "")[:_MAX_KEY_CHARS] for key in keys]}
    verdicts = [
        _verdict(key, *row)
        for key, *row in zip(keys, repeated, finite.tolist(), zero.tolist(), strict=True)
    ]
    judged["reason"], judged["detail"] = ([v[i] for v in verdicts] for i in (0, 1))
    return judged


def _verdict(key: str | None, repeated: bool, finite: bool, zero: bool) -> tuple[str, str]:
    if not key or len(key) > _MAX_KEY_CHARS:
        return "bad_key", f"an id of 1 to {_MAX_KEY_CHARS} characters"
    if repeated:  # nothing tells which of its rows is meant
        return "repeated_key", "the file names this key more than once"
    if not finite:
        return "no_vector", "missing, of another length, or not finite"
    return ("no_vector", "zero: it has no direction") if zero else ("", "")


def _digest(text: str | None) -> str | None:
    plain = text.lower() if text else ""
    return plain if _SHA256.fullmatch(plain) else None


def _order(columns: Columns) -> list[int]:
    names = ("key", "reason", "uid", "url", "caption", "sha256", "width", "height")

    def key(i: int) -> tuple[str, ...]:
        return tuple(str(columns[name][i]) for name in names)

    return sorted(range(len(columns["key"])), key=key)


def _write_images(path: Path, columns: Columns, dataset: str, shard: str) -> None:
    rows = len(columns["key"])
    given: Columns = {name: [None] * rows for name in schemas.IMAGES.names}
    given |= {"dataset": [dataset] * rows, "shard": [shard] * rows}
    given["status"] = ["rejected" if reason else ACCEPTED for reason in columns["reason"]]
    write_table(path, table_from_columns(given | columns, schemas.IMAGES))


def _write_metadata(path: Path, columns: Columns, accepted: list[int]) -> None:
    chosen = {
        name: [columns[source][i] for i in accepted]
        for name, source in (
            ("image_id", "image_id"),
            ("image_path", "key"),
            ("caption", "caption"),
            ("key", "key"),
        )
    }
    chosen["quality"] = [None] * len(accepted)
    write_table(path, table_from_columns(chosen, schemas.EMBEDDING_METADATA))


STAGE = Stage("ingest", 2, ("dataset", "scan"), plan, run, tolerant=True)
