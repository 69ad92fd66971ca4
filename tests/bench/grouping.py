"""What grouping takes: the stages components, survivors and groups on a run folder of n pictures.

The folder is written as the stages before these leave it, a part at a time: shards of 10,000 rows,
ids that are scattered over all shards as hashes are, and pairs in as many parts as the join has.
Only the stages are timed, with what the runner does for each: digests of inputs, receipts.
"""

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from indexes import Pairs
from pipeline.config import make_config
from pipeline.io import schemas
from pipeline.io.runfolder import REKEYED, image_part, pair_part, part_name
from pipeline.io.tables import write_table
from pipeline.registry import BY_NAME
from pipeline.runner.engine import Options, run_stages
from pipeline.runner.part import Context
from pipeline.runner.progress import SilentProgress

_ROWS_A_SHARD = 10_000
_STAGES = tuple(BY_NAME[name] for name in ("components", "survivors", "groups"))

Ids = npt.NDArray[np.int64]


def write_grouping(run: Path, n: int, pairs: Pairs) -> Ids:
    """Write the manifest of n pictures and their pairs, by row; returns the id of each row (n,)."""
    ids = np.random.default_rng(0).permutation(n)
    for number, start in enumerate(range(0, n, _ROWS_A_SHARD)):
        rows = np.arange(start, min(start + _ROWS_A_SHARD, n))
        name = part_name(number)
        write_table(run / image_part(name), _images(rows, ids[rows], name))
    write_table(run / REKEYED, schemas.REKEYED.empty_table())
    parts = max(1, n // make_config({}).pairs.rows_per_part)
    for number, some in enumerate(np.array_split(np.arange(len(pairs)), parts)):
        ends = np.sort([ids[pairs.id_a[some]], ids[pairs.id_b[some]]], axis=0)
        values = [*ends, pairs.similarity[some], _same("descriptor", len(some))]
        table = pa.Table.from_arrays([*map(pa.array, values)], schema=schemas.PAIRS)
        write_table(run / pair_part("lite0", part_name(number)), table)
    return ids


def grouping_seconds(run: Path) -> float:
    """CPU seconds of the stages on a folder that `write_grouping` wrote."""
    started = time.process_time()
    context = Context(run, make_config({}))
    summary = run_stages(_STAGES, context, Options(), SilentProgress())
    if summary.failed:
        raise SystemExit(f"grouping failed: {summary.failed}")
    return time.process_time() - started


def _images(rows: Ids, ids: Ids, shard: str) -> pa.Table:
    """Accepted rows of the manifest: every picture with a name, a caption and digests of its own.

    Of 200 to 1,000 pixels a side, so that quality decides among near-duplicates.
    """
    n = len(rows)
    key = pc.utf8_lpad(pc.cast(pa.array(rows), pa.string()), 9, "0")
    digest = pc.utf8_lpad(key, 64, "0")
    columns = {
        "image_id": pa.array(ids),
        "dataset": _same("train", n),
        "shard": _same(shard, n),
        "key": key,
        "size": pa.array(10_000 + rows % 997),
        "uid": pc.utf8_lpad(key, 32, "0"),
        "url": _joined("https://pictures.example.org/of/the/set/", key, ".jpg"),
        "caption": _joined("a picture of the number ", key, ", as long as captions are"),
        "width": pa.array((200 + rows % 801).astype(np.int32)),
        "height": pa.array((200 + rows % 599).astype(np.int32)),
        "sha256": digest,
        "pixel_sha256": digest,
        "status": _same("ok", n),
        "reason": _same("", n),
        "detail": _same("", n),
    }
    arrays = [columns.get(field.name, pa.nulls(n, field.type)) for field in schemas.IMAGES]
    return pa.Table.from_arrays(arrays, schema=schemas.IMAGES)


def _same(text: str, n: int) -> pa.Array:
    return pa.repeat(text, n)


def _joined(before: str, key: pa.Array, after: str) -> pa.Array:
    return pc.binary_join_element_wise(before, key, after, "")
