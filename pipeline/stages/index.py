"""index: an encoder's vectors in, a FAISS index out.

The vectors are first put in the order of their ids on disk, so that beside the index itself no more
than one part of them is in memory.
"""

import tempfile
from pathlib import Path

import indexes
from pipeline.config import GIVEN
from pipeline.encoders import build_encoder, metric_of
from pipeline.io.atomic import TEMPORARY_PREFIX
from pipeline.io.digest import canonical_sha256, sha256_file
from pipeline.io.embeddings import map_embeddings
from pipeline.io.runfolder import REKEYED, index_folder, list_embedding_parts
from pipeline.runner.part import Context, Outcome, Part, Stage


def plan(context: Context) -> list[Part]:
    """One part an encoder."""
    parts = []
    for name in context.config.embed.encoders:
        files = list_embedding_parts(context.run, name)
        inputs = tuple(path for file in files for path in (file.vectors, file.metadata))
        inputs += (REKEYED,) if context.path(REKEYED).is_file() else ()
        parts.append(Part(name, inputs, {"encoder": name}))
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Build and save the index of one encoder; each vector is stored once."""
    name = part.params["encoder"]
    config = context.config
    spec = config.embed.encoders[name]
    metric = metric_of(spec)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=context.run) as scratch:
        ids, vectors = map_embeddings(context.run, name, Path(scratch, "by_id.npy"))
        built = indexes.build(
            vectors,
            ids,
            metric=metric,
            factory=config.index.factory.get(name),
            seed=config.seed,
            threads=config.runner.threads_per_part,
            fingerprint=_fingerprint(part, context),
            normalise=metric == "cosine",
        )
    folder = index_folder(name)
    indexes.save(built, context.path(folder))
    outputs = (f"{folder}/index.faiss", f"{folder}/index.json")
    return Outcome(outputs, len(ids), built.ntotal)


def _fingerprint(part: Part, context: Context) -> str:
    """The encoder's; where it is not known, the digest of what it made."""
    spec = context.config.embed.encoders[part.params["encoder"]]
    if spec.kind == GIVEN:
        return canonical_sha256([sha256_file(context.path(name)) for name in part.inputs])
    return build_encoder(spec, context.config.model.device).fingerprint


STAGE = Stage("index", 2, ("embed", "index"), plan, run)
