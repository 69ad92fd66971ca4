"""The lists of an export."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vector_builder import parquet, planted

from pipeline.config import make_config
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress
from pipeline.stages.export import removal_ids


def duplicates(uids: list[str | None], keep: list[bool]) -> pa.Table:
    ids = [70 - i for i in range(len(uids))]
    return pa.table({"image_id": ids, "uid": pa.array(uids, pa.string()), "keep": keep})


@pytest.mark.parametrize(
    ("uids", "expected"),
    [
        (["c", "b", "a", "d"], ["a", "c"]),
        (["c", None, "a", "d"], ["68", "70"]),  # one has none
        (["c", "", "a", "d"], ["68", "70"]),
        (["c", "a", "a", "d"], ["68", "70"]),  # a kept picture has it, too
    ],
)
def test_uids_are_listed_only_where_they_name_one_picture_each(uids, expected):
    table = removal_ids(duplicates(uids, [False, True, False, True]))
    assert table.column_names == ["id"] and table["id"].type == pa.string()
    assert table["id"].to_pylist() == expected


def test_ids_of_a_parquet_file_come_back_as_its_readers_know_them(tmp_path):
    """NeMo Curator: a column of ids and one of embeddings in, the ids to remove out."""
    vectors = planted(30, copies=5)
    ids = [f"doc_{i}" for i in range(30)]
    parquet(tmp_path / "in/a.parquet", list(vectors), pa.list_(pa.float32()), "embeddings", id=ids)
    dataset = {"shards": [str(tmp_path / "in")], "embeddings": True}
    config = make_config({"dataset": dataset, "pairs": {"min_similarity": {"given": 0.95}}})
    run_job(Job(config, tmp_path / "run", DEDUP), SilentProgress())
    removed = pq.read_table(tmp_path / "run/export/removal_ids.parquet")["id"].to_pylist()
    dropped = pq.read_table(tmp_path / "run/export/drop.parquet").to_pylist()
    assert removed == sorted(row["uid"] for row in dropped)
    assert removed and set(removed) < set(ids)
