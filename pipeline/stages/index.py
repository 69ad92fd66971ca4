"""index: an encoder's vectors in, a FAISS index out."""

import indexes
from pipeline.encoders import build_encoder, metric_of
from pipeline.io.runfolder import index_folder, list_embedding_parts, read_embeddings
from pipeline.runner.part import Context, Outcome, Part, Stage


def plan(context: Context) -> list[Part]:
    """One part an encoder."""
    parts = []
    for name in context.config.embed.encoders:
        files = list_embedding_parts(context.run, name)
        inputs = tuple(path for file in files for path in (file.vectors, file.metadata))
        parts.append(Part(name, inputs, {"encoder": name}))
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Build and save the index of one encoder; each vector is stored once."""
    name = part.params["encoder"]
    config = context.config
    spec = config.embed.encoders[name]
    metric = metric_of(spec)
    ids, vectors = read_embeddings(context.run, name, normalise=metric == "cosine")
    built = indexes.build(
        vectors,
        ids,
        metric=metric,
        factory=config.index.factory.get(name),
        seed=config.seed,
        threads=config.runner.threads_per_part,
        fingerprint=build_encoder(spec, config.model.device).fingerprint,
    )
    folder = index_folder(name)
    indexes.save(built, context.path(folder))
    outputs = (f"{folder}/index.faiss", f"{folder}/index.json")
    return Outcome(outputs, len(ids), built.ntotal)


STAGE = Stage("index", 1, ("embed", "index"), plan, run)
