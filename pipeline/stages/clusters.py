"""clusters: the generations of each caption that one copy descriptor holds for alike.

Off unless the configuration names an encoder. No training set is needed. Blank generations are in
no cluster, and neither are those without a caption, which have nothing to agree on.
"""

from typing import Any

import numpy as np

from pipeline.batches import batched
from pipeline.detection.density_clusters import density_clusters
from pipeline.encoders import build_encoder
from pipeline.io import schemas
from pipeline.io.images import decode
from pipeline.io.runfolder import CLUSTERS
from pipeline.io.shards import iterate_samples, picture_bytes
from pipeline.io.tables import read_rows, write_rows
from pipeline.runner.merge import merge_stage
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.scan import image_limits


def plan(context: Context) -> list[Part]:
    """One part a block of generations; none where no encoder is named."""
    if context.config.clusters.encoder is None:
        return []
    return [
        Part(path.stem, (f"generations/{path.stem}.tar", f"generations/{path.stem}.parquet"))
        for path in sorted(context.run.glob("generations/*.parquet"))
    ]


def run(part: Part, context: Context) -> Outcome:
    """Cluster the generations of one block, a caption at a time."""
    config = context.config.clusters
    name = str(config.encoder)
    encoder = build_encoder(context.config.embed.encoders[name], context.config.model.device)
    rows = read_rows(context.path(part.inputs[1]), schemas.GENERATIONS)
    rows.sort(key=lambda row: int(row["generation_id"]))
    by_prompt: dict[int, list[str]] = {}
    for row in rows:
        if row["status"] == "ok" and row["prompt_id"] is not None:
            by_prompt.setdefault(row["prompt_id"], []).append(row["key"])
    shown = {key for keys in by_prompt.values() for key in keys}
    vectors: dict[str, Any] = {}
    limits = image_limits(context)
    samples = iterate_samples(context.path(part.inputs[0]), shown)
    for batch in batched(samples, context.config.embed.batch_size):
        pictures = [decode(picture_bytes(sample), limits) for sample in batch]
        found = encoder.encode(pictures).vectors
        vectors |= zip((sample["__key__"] for sample in batch), found, strict=True)
    labels: dict[str, int] = {}
    for keys in by_prompt.values():
        stacked = np.stack([vectors[key] for key in keys])
        own = density_clusters(stacked, eps=config.eps, min_size=config.min_size)
        labels |= zip(keys, own.tolist(), strict=True)
    written = [
        {
            "generation_id": row["generation_id"],
            "prompt_id": row["prompt_id"],
            "encoder": name,
            "cluster": labels.get(row["key"], -1),
        }
        for row in rows
    ]
    output = f"clusters/part-{part.name}.parquet"
    write_rows(context.path(output), written, schemas.CLUSTERS)
    return Outcome((output,), len(rows), len(written))


STAGE = Stage("clusters", 2, ("clusters", "embed"), plan, run, on_device=True)
TABLE = merge_stage("clusters-table", "clusters/part-*.parquet", CLUSTERS, schemas.CLUSTERS)
