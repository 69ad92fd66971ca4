"""embed: accepted pictures in, one vector a picture and encoder out.

All encoders share one decode. Vectors go to the clip-retrieval layout (fp16, or packed bits for
hashes) with a metadata table whose rows correspond; both are written by the same part, under one
receipt. A vector that is not finite or has no direction is rejected with a reason.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.batches import batched
from pipeline.encoders import Encoded, Metric, build_encoder, metric_of
from pipeline.errors import ImageRejected
from pipeline.io import schemas
from pipeline.io.atomic import write_bytes
from pipeline.io.images import decode
from pipeline.io.runfolder import (
    REKEYED,
    EmbeddingPart,
    image_part,
    list_image_parts,
    read_images,
)
from pipeline.io.shards import iterate_samples
from pipeline.io.tables import write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.scan import image_limits, shards_of

_MIN_NORM = 1e-6


def plan(context: Context) -> list[Part]:
    """One part a shard."""
    shards = {f"{shard.number:05d}": shard for shard in shards_of(context)}
    return [
        Part(
            name,
            (image_part(name), REKEYED, relative(shards[name].path, context.run)),
            {"weights": _fingerprints(context)},
        )
        for name in list_image_parts(context.run)
    ]


def run(part: Part, context: Context) -> Outcome:
    """Embed one shard with every encoder."""
    device = context.config.model.device
    encoders = {
        name: build_encoder(spec, device) for name, spec in context.config.embed.encoders.items()
    }
    columns = {
        name: _Column(metric_of(spec)) for name, spec in context.config.embed.encoders.items()
    }
    rejected: list[dict[str, Any]] = []
    pictures = _pictures(part, context, rejected)
    rows_in = 0
    for batch in batched(pictures, context.config.embed.batch_size):
        rows_in += len(batch)
        images = [picture for _, picture in batch]
        for name, encoder in encoders.items():
            columns[name].add([row for row, _ in batch], encoder.encode(images))
    outputs: list[str] = []
    for name, column in columns.items():
        outputs += _write(context.run, EmbeddingPart(name, part.name), column, rejected)
    bad = {row["image_id"] for column in columns.values() for row in column.rejected}
    counts = {"undecodable": len(rejected), "no_vector": len(bad)}
    total = rows_in + len(rejected)
    return Outcome(
        tuple(outputs), total, rows_in - len(bad), {k: n for k, n in counts.items() if n}
    )


@dataclass
class _Column:
    metric: Metric
    rows: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[npt.NDArray[Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def add(self, rows: list[dict[str, Any]], encoded: Encoded) -> None:
        sound = _sound(encoded.vectors, self.metric)
        quality = encoded.quality if encoded.quality is not None else [None] * len(rows)
        for row, value, good in zip(rows, quality, sound, strict=True):
            if good:
                self.rows.append(row | {"quality": None if value is None else float(value)})
            else:
                detail = "the vector is not finite or has no direction"
                self.rejected.append(_rejection(row, "no_vector", detail))
        self.blocks.append(encoded.vectors[sound])


def _sound(vectors: npt.NDArray[Any], metric: Metric) -> npt.NDArray[np.bool_]:
    if metric == "hamming":
        return np.ones(len(vectors), bool)
    finite = np.isfinite(vectors).all(axis=1)
    if metric == "cosine":
        finite &= np.linalg.norm(np.where(finite[:, None], vectors, 0), axis=1) > _MIN_NORM
    return finite


def _pictures(
    part: Part, context: Context, rejected: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    table = read_images(context.run, [part.name], columns=["image_id", "key", "member", "caption"])
    rows = {row["key"]: row for row in table.to_pylist()}
    limits = image_limits(context)
    for sample in iterate_samples(context.path(part.inputs[2]), rows.keys()):
        row = rows.pop(sample["__key__"])
        member = row.pop("member")
        row["image_path"] = member
        extension = member[len(row["key"]) + 1 :].lower()
        try:
            yield row, decode(sample[extension], limits)
        except ImageRejected as rejection:
            rejected.append(_rejection(row, rejection.reason, str(rejection)))
    rejected += [_rejection(row, "missing_in_tar", "") for row in rows.values()]


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
    empty = np.zeros((0, 1), np.float32)
    vectors = np.concatenate(column.blocks) if column.blocks else empty
    stored = vectors if column.metric == "hamming" else vectors.astype(np.float16)
    buffer = io.BytesIO()
    np.save(buffer, stored, allow_pickle=False)
    write_bytes(run / part.vectors, buffer.getvalue())
    write_rows(run / part.metadata, column.rows, schemas.EMBEDDING_METADATA)
    write_rows(run / part.rejected, [*undecodable, *column.rejected], schemas.REJECTED)
    return part.vectors, part.metadata, part.rejected


def _fingerprints(context: Context) -> dict[str, str]:
    device = context.config.model.device
    encoders = context.config.embed.encoders.items()
    return {name: build_encoder(spec, device).fingerprint for name, spec in encoders}


STAGE = Stage("embed", 1, ("embed", "scan"), plan, run, tolerant=True, on_device=True)
