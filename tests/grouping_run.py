"""A run folder with a manifest and pairs, and no pictures: what the grouping stages read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import make_config
from pipeline.io import schemas
from pipeline.io.runfolder import REKEYED, image_part, pair_part
from pipeline.io.runjson import write_run
from pipeline.io.tables import table_from_rows, write_rows, write_table
from pipeline.jobs import Job, run_job
from pipeline.registry import BY_NAME
from pipeline.runner.progress import SilentProgress

GROUPING = tuple(BY_NAME[name] for name in ("components", "survivors", "groups"))


def image_rows(n, *, captions=None, pixels=None, shards=1, ids=None, sides=None):
    """Rows of the manifest; of one shard after the other, round and round."""
    return [
        {
            "image_id": ids[i] if ids else i,
            "dataset": "train",
            "shard": f"{i % shards:05d}",
            "key": f"{i:03d}",
            "uid": f"u{i}",
            "url": None,
            "caption": captions[i] if captions else f"c{i}",
            "width": sides[i] if sides else 8,
            "height": 8,
            "size": 10,
            "sha256": f"{i:064d}",
            "pixel_sha256": pixels[i] if pixels else f"{i:064d}",
            "status": "ok",
            "reason": "",
            "detail": "",
        }
        for i in range(n)
    ]


def pair_rows(edges, reason="descriptor"):
    return [
        {"id_a": min(a, b), "id_b": max(a, b), "similarity": s, "reason": reason}
        for a, b, s in edges
    ]


def images_table(rows) -> pa.Table:
    return table_from_rows(rows, schemas.IMAGES)


def pairs_table(edges) -> pa.Table:
    return table_from_rows(pair_rows(edges), schemas.PAIRS)


def write_grouping_run(run: Path, rows, pairs) -> None:
    """`rows` go into one part a shard, `pairs` is a list of tables' rows."""
    if not (run / "run.json").exists():
        write_run(run, make_config({}))
    names = sorted({row["shard"] for row in rows})
    for name in names:
        own = [row for row in rows if row["shard"] == name]
        write_rows(run / image_part(name), own, schemas.IMAGES)
    write_rows(run / REKEYED, [], schemas.REKEYED)
    for number, table in enumerate(pairs):
        write_rows(run / pair_part("lite0", f"{number:05d}"), table, schemas.PAIRS)
    if not pairs:
        write_table(run / pair_part("exact", "exact"), schemas.PAIRS.empty_table())


def group_run(run: Path, **settings):
    """Run the grouping stages; the rows of duplicates.parquet and of groups.parquet."""
    summary = run_job(Job(make_config({"groups": settings}), run, GROUPING), SilentProgress())
    assert not summary.failed
    return [
        pq.read_table(run / name).to_pylist() for name in ("duplicates.parquet", "groups.parquet")
    ]
