"""captions: accepted captions in, one vector each out, in the rows of their encoder's metadata.

With the text tower of an image encoder the vectors lie beside the pictures', and each row has its
clip_similarity, the cosine of picture and caption (Hessel et al. 2021, "CLIPScore", without its
factor 2.5). A sentence encoder gets a folder of its own. A row without a caption has a vector of
zeros, no similarity, and counts as rejected here; the picture stays.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.batches import batched
from pipeline.encoders.text import TextEncoder, build_text_encoder, shares_space
from pipeline.io import schemas
from pipeline.io.atomic import write_bytes
from pipeline.io.embeddings import load_vectors
from pipeline.io.manifest import read_images
from pipeline.io.runfolder import (
    REKEYED,
    EmbeddingPart,
    image_part,
    list_embedding_parts,
    list_image_parts,
)
from pipeline.io.tables import read_rows, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage

_DECIMALS = 6
Row = dict[str, Any]
Vectors = npt.NDArray[np.float16]


def plan(context: Context) -> list[Part]:
    """One part a shard."""
    name = context.config.captions.encoder or ""
    params = {"encoder": name, "weights": build_text_encoder(context.config).fingerprint}
    if shares_space(context.config):
        files = list_embedding_parts(context.run, name)
        return [Part(file.name, (file.metadata, file.vectors), params) for file in files]
    return [
        Part(number, (image_part(number), REKEYED), params)
        for number in list_image_parts(context.run)
    ]


def run(part: Part, context: Context) -> Outcome:
    """Encode the captions of one shard."""
    file = EmbeddingPart(part.params["encoder"], part.name)
    shared = shares_space(context.config)
    rows = (
        read_rows(context.path(file.metadata), schemas.EMBEDDING_METADATA)
        if shared
        else _accepted(part.name, context)
    )
    vectors = encode_captions(
        [row["caption"] for row in rows],
        build_text_encoder(context.config),
        context.config.captions.batch_size,
    )
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    write_bytes(context.path(file.text_vectors), buffer.getvalue())
    outputs = [file.text_vectors]
    if shared:
        outputs.append(file.clip_similarity)
        pictures = load_vectors(context.path(file.vectors), len(rows))
        write_rows(
            context.path(file.clip_similarity),
            _similarities(rows, pictures, vectors),
            schemas.CLIP_SIMILARITY,
        )
    else:
        outputs.append(file.metadata)
        write_rows(context.path(file.metadata), rows, schemas.EMBEDDING_METADATA)
    missing = sum(not row["caption"] for row in rows)
    rejected = {"no_caption": missing} if missing else {}
    return Outcome(tuple(outputs), len(rows), len(rows) - missing, rejected)


def encode_captions(captions: list[str], encoder: TextEncoder, batch_size: int) -> Vectors:
    """One unit vector a caption (n, d), fp16; zeros for an empty one.

    Each distinct caption is encoded once, in sorted order: so equal captions have equal vectors,
    and none depends on the order of rows.
    """
    distinct = sorted(set(captions) - {""})
    blocks = [encoder.encode_texts(block) for block in batched(distinct, batch_size)]
    width = blocks[0].shape[1] if blocks else 1
    table = np.concatenate([np.zeros((1, width), np.float32), *blocks]).astype(np.float16)
    place = {caption: number for number, caption in enumerate(distinct, 1)}
    return table[[place.get(caption, 0) for caption in captions]]


def _accepted(name: str, context: Context) -> list[Row]:
    columns = ["image_id", "key", "caption", "member"]
    rows = read_images(context.run, [name], columns=columns).to_pylist()
    return [row | {"image_path": row.pop("member") or row["key"]} for row in rows]


def _similarities(rows: list[Row], pictures: npt.NDArray[Any], captions: Vectors) -> list[Row]:
    """The cosine of each picture and caption, of the vectors as they are stored."""
    found = []
    for row, picture, caption in zip(rows, pictures, captions, strict=True):
        value = None
        if row["caption"]:
            a, b = picture.astype(np.float64), caption.astype(np.float64)
            value = round(float(a @ b / np.sqrt((a @ a) * (b @ b))), _DECIMALS)
        found.append({"image_id": row["image_id"], "clip_similarity": value})
    return found


STAGE = Stage("captions", 1, ("embed", "captions"), plan, run, tolerant=True, on_device=True)
