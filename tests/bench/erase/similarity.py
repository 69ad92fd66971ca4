"""The drawings that `verify` judged, judged again by the measure that the truth was found with.

An eraser's verdict rests on the audit's rule, by which its targets were found, too. Structural
similarity is another (tests/bench/audit/truth.py); where the two disagree, neither is to be
trusted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.io import schemas
from pipeline.io.images import decode
from pipeline.io.shards import iterate_samples
from pipeline.io.tables import read_rows
from tests.bench.audit.measures import Rate
from tests.bench.audit.truth import SIDE, Originals, which
from tests.bench.erase.measures import share


def similar(
    run: Path, method: str, picture_of: Mapping[int, str], originals: Originals
) -> Rate | None:
    """How many drawings of trained captions show their own picture; `picture_of` by prompt_id.

    None where they have another size than the originals.
    """
    pictures: dict[str, str] = {}
    drawn: list[np.ndarray] = []
    for table in sorted(run.glob(f"redraws/part-{method}-?????.parquet")):
        rows = read_rows(table, schemas.REDRAWS)
        pictures |= {r["key"]: picture_of[r["prompt_id"]] for r in rows if r["arm"] == "trained"}
    keys: list[str] = []
    for tar in sorted(run.glob(f"redraws/{method}-?????.tar")):
        for sample in iterate_samples(tar, set(pictures)):
            keys.append(sample["__key__"])
            drawn.append(np.asarray(decode(sample["png"])))
    if not drawn or drawn[0].shape != (SIDE, SIDE, 3):
        return None
    found = which(np.stack(drawn), originals)
    return _own(found, [pictures[key] for key in keys])


def _own(found: Sequence[str | None], wanted: Sequence[str]) -> Rate:
    return share(sum(a == b for a, b in zip(found, wanted, strict=True)), len(wanted))
