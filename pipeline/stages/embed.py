"""embed: accepted pictures in, one vector a picture and encoder out.

All encoders share one decode, at a reduced scale where none of them could see more. Vectors go to
the clip-retrieval layout (fp16, or packed bits for hashes) with a metadata table whose rows
correspond; both are written by the same part, under one receipt. A vector that is not finite or has
no direction is rejected with a reason.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.batches import batched
from pipeline.encoders import Encoded, Encoder, Metric, build_encoder, metric_of
from pipeline.errors import ImageRejected
from pipeline.io import schemas
from pipeline.io.atomic import write_bytes
from pipeline.io.images import ImageLimits, decode
from pipeline.io.manifest import read_images
from pipeline.io.runfolder import REKEYED, EmbeddingPart, image_part, own_image_parts
from pipeline.io.shards import iterate_samples
from pipeline.io.tables import write_rows
from pipeline.ordered import ordered_map
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.scan import image_limits, shards_of

_MIN_NORM = 1e-6


def plan(context: Context) -> list[Part]:
    """One part a shard."""
    shards = {f"{shard.number:05d}": shard for shard in shards_of(context)}
    encoders = _encoders(context)
    params = {
        "weights": {name: encoder.fingerprint for name, encoder in encoders.items()},
        "least_side": _least_side(encoders),
    }
    return [
        Part(
            name,
            (image_part(name), REKEYED, relative(shards[name].path, context.run)),
            params,
        )
        for name in own_image_parts(context.run)
    ]


def run(part: Part, context: Context) -> Outcome:
    """Embed one shard with every encoder."""
    config = context.config
    work = _Work(_encoders(context), image_limits(context))
    columns = {name: _Column(metric_of(spec)) for name, spec in config.embed.encoders.items()}
    samples = _Samples(part, context)
    rejected: list[dict[str, Any]] = []
    rows_in = 0
    batches = batched(samples, config.embed.batch_size)
    for done in ordered_map(work, batches, config.runner.threads_per_part):
        rows_in += len(done.rows)
        rejected += done.rejected
        for name, encoded in done.encoded.items():
            columns[name].add(done.rows, encoded)
    rejected += [_rejection(row, "missing_in_tar", "") for row in samples.rows.values()]
    outputs: list[str] = []
    for name, column in columns.items():
        outputs += _write(context.run, EmbeddingPart(name, part.name), column, rejected)
    bad = {row["image_id"] for column in columns.values() for row in column.rejected}
    counts = {"undecodable": len(rejected), "no_vector": len(bad)}
    total = rows_in + len(rejected)
    return Outcome(
        tuple(outputs), total, rows_in - len(bad), {k: n for k, n in counts.items() if n}
    )


class _Samples:
    """Rows with the bytes of their pictures, in the shard's order; `rows` are those to come."""

    def __init__(self, part: Part, context: Context) -> None:
        columns = ["image_id", "key", "member", "caption", "sha256"]
        table = read_images(context.run, [part.name], columns=columns)
        self.rows = {row["key"]: row for row in table.to_pylist()}
        self._shard = context.path(part.inputs[2])

    def __iter__(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        for sample in iterate_samples(self._shard, self.rows.keys()):
            row = self.rows.pop(sample["__key__"])
            row["image_path"] = row.pop("member")
            extension = row["image_path"][len(row["key"]) + 1 :].lower()
            yield row, sample[extension]


@dataclass(frozen=True)
class _Done:
    rows: list[dict[str, Any]]
    encoded: dict[str, Encoded]
    rejected: list[dict[str, Any]]


@dataclass(frozen=True)
class _Work:
    """One batch: decoded at the least scale that all encoders can use, and encoded by each."""

    encoders: Mapping[str, Encoder]
    limits: ImageLimits

    def __call__(self, batch: Sequence[tuple[dict[str, Any], bytes]]) -> _Done:
        least_side = _least_side(self.encoders)
        rows, pictures, rejected = [], [], []
        for row, data in batch:
            try:
                if hashlib.sha256(data).hexdigest() != row.pop("sha256"):
                    raise ImageRejected("changed", "not the bytes that were scanned")
                pictures.append(decode(data, self.limits, least_side=least_side))
                rows.append(row)
            except ImageRejected as rejection:
                rejected.append(_rejection(row, rejection.reason, str(rejection)))
        encoders = self.encoders.items() if pictures else ()
        return _Done(rows, {name: encoder.encode(pictures) for name, encoder in encoders}, rejected)


@dataclass
class _Column:
    metric: Metric
    rows: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[npt.NDArray[Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def add(self, rows: list[dict[str, Any]], encoded: Encoded) -> None:
        sound = _sound(encoded.vectors, self.metric)
        for row, further, good in zip(rows, _further(encoded), sound, strict=True):
            if good:
                self.rows.append(row | further)
            else:
                detail = "the vector is not finite or has no direction"
                self.rejected.append(_rejection(row, "no_vector", detail))
        self.blocks.append(encoded.vectors[sound])


def _further(encoded: Encoded) -> Iterator[dict[str, Any]]:
    """What the metadata say of each row beside the picture's own."""
    trimmed = encoded.trimmed
    for row, vector in enumerate(encoded.vectors):
        found: dict[str, Any] = {"quality": _quality(encoded, row)}
        if trimmed is not None and not np.array_equal(trimmed.vectors[row], vector):
            inside = trimmed.vectors[row].tobytes()
            found |= {"trimmed": inside, "trimmed_quality": _quality(trimmed, row)}
        yield found


def _quality(encoded: Encoded, row: int) -> float | None:
    return None if encoded.quality is None else float(encoded.quality[row])


def _sound(vectors: npt.NDArray[Any], metric: Metric) -> npt.NDArray[np.bool_]:
    if metric == "hamming":
        return np.ones(len(vectors), bool)
    finite = np.isfinite(vectors).all(axis=1)
    if metric == "cosine":
        finite &= np.linalg.norm(np.where(finite[:, None], vectors, 0), axis=1) > _MIN_NORM
    return finite


def _rejection(row: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    return {
        "image_id": row["image_id"],
        "key": row["key"],
        "reason": reason,
        "detail": detail[:500],
    }


def _write(
    run: Path, part: EmbeddingPart, column: _Column, undecodable: list[dict[str, Any]]
) -> tuple[str, str, str]:
    vectors = np.concatenate(column.blocks) if column.blocks else _none(column.metric)
    stored = vectors if column.metric == "hamming" else vectors.astype(np.float16)
    buffer = io.BytesIO()
    np.save(buffer, stored, allow_pickle=False)
    write_bytes(run / part.vectors, buffer.getvalue())
    schema = schemas.HASH_METADATA if column.metric == "hamming" else schemas.EMBEDDING_METADATA
    write_rows(run / part.metadata, column.rows, schema)
    write_rows(run / part.rejected, [*undecodable, *column.rejected], schemas.REJECTED)
    return part.vectors, part.metadata, part.rejected


def _none(metric: Metric) -> npt.NDArray[Any]:
    """Vectors of a shard without a picture: hashes have 256 bits, other widths are not known."""
    return np.zeros((0, 32), np.uint8) if metric == "hamming" else np.zeros((0, 1), np.float32)


def _encoders(context: Context) -> dict[str, Encoder]:
    device = context.config.model.device
    specs = context.config.embed.encoders.items()
    return {name: build_encoder(spec, device) for name, spec in specs}


def _least_side(encoders: Mapping[str, Encoder]) -> int:
    return max(encoder.least_side for encoder in encoders.values())


STAGE = Stage("embed", 3, ("embed", "scan"), plan, run, tolerant=True, on_device=True)
