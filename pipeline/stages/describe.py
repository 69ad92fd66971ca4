"""describe: a descriptor of each drawing of captions that were to stay, for KID to compare."""

import numpy as np

from pipeline.batches import batched
from pipeline.encoders import build_encoder
from pipeline.io import schemas
from pipeline.io.images import decode
from pipeline.io.shards import iterate_samples
from pipeline.io.tables import read_rows, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.gallery import descriptor_of

ARMS = ("control", "kept")
_COPIED = ("key", "method", "arm", "caption", "target_group", "number")


def plan(context: Context) -> list[Part]:
    """One part a block of drawings; none where no encoder is compared by cosine."""
    drawn = sorted(context.run.glob("redraws/part-*.parquet"))
    spec = descriptor_of(context) if drawn else None
    if spec is None:
        return []
    made = build_encoder(spec).fingerprint
    encoder = {"encoder": spec.model_dump(mode="json"), "fingerprint": made}
    names = [path.stem.removeprefix("part-") for path in drawn]
    inputs = ((f"redraws/{name}.tar", f"redraws/part-{name}.parquet") for name in names)
    return [Part(name, own, encoder) for name, own in zip(names, inputs, strict=True)]


def run(part: Part, context: Context) -> Outcome:
    """Encode one block's drawings of captions that were to stay."""
    spec = descriptor_of(context)
    if spec is None:
        raise ValueError("planned only where there is a descriptor")
    encoder = build_encoder(spec, context.config.model.device)
    rows = [
        row
        for row in read_rows(context.path(part.inputs[1]), schemas.REDRAWS)
        if row["arm"] in ARMS
    ]
    vectors: dict[str, np.ndarray] = {}
    samples = iterate_samples(context.path(part.inputs[0]), {row["key"] for row in rows})
    for batch in batched(samples, context.config.embed.batch_size):
        found = encoder.encode([decode(sample["png"]) for sample in batch]).vectors
        vectors |= zip((sample["__key__"] for sample in batch), found, strict=True)
    described = [
        {name: row[name] for name in _COPIED} | {"vector": vectors[row["key"]]} for row in rows
    ]
    output = f"described/part-{part.name}.parquet"
    write_rows(context.path(output), described, schemas.DESCRIBED)
    return Outcome((output,), len(rows), len(described))


STAGE = Stage("describe", 1, ("embed", "match", "train"), plan, run, tolerant=True, on_device=True)
