"""recall: pairs in, the share of the true ones that were found out.

For a sample of pictures an exact scan lists every pair that one of them is in. A join that compares
all with all finds them all; one in cells may miss some, and how many depends on the descriptor, on
the threshold and on the set: so every run measures its own.
"""

import json

import numpy as np

import indexes
from pipeline.io import schemas
from pipeline.io.atomic import write_bytes
from pipeline.io.runfolder import pair_part, recall_file
from pipeline.io.tables import read_parts
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages import pairs


def plan(context: Context) -> list[Part]:
    """One part a joined encoder."""
    if not context.config.pairs.recall_sample:
        return []
    parts = []
    for name, threshold in pairs.joined_thresholds(context).items():
        found = sorted(context.run.glob(pair_part(name, "*")))
        tables = tuple(path.relative_to(context.run).as_posix() for path in found)
        params = {"encoder": name, "threshold": threshold}
        parts.append(Part(name, (*pairs.join_inputs(context, name), *tables), params))
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Write the recall of one encoder's join."""
    name, config = part.params["encoder"], context.config
    joined = pairs.open_join(context, name, part.params["threshold"])
    true = indexes.sampled_pairs(
        joined.vectors,
        joined.ids,
        joined.threshold,
        metric=joined.metric,
        mirror=joined.mirror,
        sample=config.pairs.recall_sample,
        seed=config.seed,
    )
    if config.pairs.max_pixel_l2 is not None:
        true = pairs.agreeing(true, context, config.pairs.max_pixel_l2)
    tables = [context.run / name for name in part.inputs if name.startswith("pairs/")]
    found = read_parts(tables, schemas.PAIRS)
    recall = indexes.recall_of(
        true,
        indexes.Pairs(
            found["id_a"].to_numpy(), found["id_b"].to_numpy(), found["similarity"].to_numpy()
        ),
    )
    values = {
        "encoder": name,
        "join": "all with all" if joined.cells is None else "cells",
        "cells": None if joined.cells is None else len(joined.cells),
        "probes": None if joined.cells is None else joined.cells.probes.shape[1],
        "reach": None if joined.cells is None else joined.reach,
        "threshold": joined.threshold,
        "pictures_sampled": min(config.pairs.recall_sample, len(np.unique(joined.ids))),
        "pairs_true": recall.n,
        "pairs_found": recall.hits,
        "recall": recall.recall if recall.n else None,
        "ci_low": recall.low,
        "ci_high": recall.high,
    }
    output = recall_file(name)
    write_bytes(context.path(output), json.dumps(values, indent=1, sort_keys=True).encode())
    return Outcome((output,), recall.n, recall.n)


STAGE = Stage("recall", 1, ("pairs", "embed"), plan, run)
