"""Shards on an object store; fsspec's memory file system stands for it."""

from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from shard_builder import ShardBuilder, jpeg, picture
from tenacity import wait_none

from pipeline.config import make_config
from pipeline.errors import FingerprintMismatch, MissingInput, PartFailed, UsageError
from pipeline.io import remote
from pipeline.io.remote import RemoteFile, fetch, list_shards
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress


@pytest.fixture
def store(tmp_path):
    """Two shards in memory://bucket/data, the same ones in a local folder."""
    files = fsspec.filesystem("memory")
    for number in range(2):
        builder = ShardBuilder(tmp_path / "local" / f"{number:05d}.tar")
        for i in range(3):
            builder.add(f"{number}{i}", jpeg(picture(10 * number + i)), f"picture {i}")
        builder.add(f"{number}copy", jpeg(picture(1)), "a copy").write()
    for path in (tmp_path / "local").iterdir():
        files.pipe_file(f"/bucket/data/{path.name}", path.read_bytes())
    yield files
    files.rm("/bucket", recursive=True)


def dedup(out, *addresses, **sections):
    values = {"dataset": {"shards": list(map(str, addresses))}, **sections}
    return run_job(Job(make_config(values), out, DEDUP), SilentProgress())


@pytest.mark.parametrize("name", ["", "/*.tar", "/{00000..00001}.tar"])
def test_the_same_pictures_are_kept_as_of_local_shards(store, tmp_path, name):
    summary = dedup(tmp_path / "run", f"memory://bucket/data{name}")
    assert summary.rows["fetch"] == (2, 2) and summary.rows["scan"] == (8, 8)
    dedup(tmp_path / "plain", tmp_path / "local")
    for file in ("duplicates.parquet", "export/keep.parquet", "export/shards/00001.tar"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


def test_a_second_run_copies_nothing_and_a_replaced_shard_is_noticed(store, tmp_path):
    dedup(tmp_path / "run", "memory://bucket/data")
    (copy,) = (tmp_path / "run/fetched").glob("*/00000.tar")
    stamp = copy.stat().st_mtime_ns
    dedup(tmp_path / "run", "memory://bucket/data")
    assert copy.stat().st_mtime_ns == stamp
    store.pipe_file("/bucket/data/00000.tar", store.cat_file("/bucket/data/00001.tar"))
    with pytest.raises(FingerprintMismatch, match="fetch/00000: params"):
        dedup(tmp_path / "run", "memory://bucket/data")


def test_folders_with_equal_names_do_not_mix(store, tmp_path):
    for name in ("00000.tar", "00000.parquet", "00000_stats.json"):
        store.cp_file(f"/bucket/data/{name}", f"/bucket/more/{name}")
    summary = dedup(tmp_path / "run", "memory://bucket/data", "memory://bucket/more/00000.tar")
    assert summary.rows["scan"] == (12, 12)


def test_an_evaluation_set_may_be_remote_too(store, tmp_path):
    dedup(tmp_path / "run", tmp_path / "local", against=["memory://bucket/data/00001.tar"])
    found = pq.read_table(tmp_path / "run/export/contaminated.parquet").to_pylist()
    assert {row["eval_dataset"] for row in found} == {"data"} and len(found) == 6


@pytest.mark.parametrize("address", ["memory://bucket/none", "memory://bucket/data/9.tar"])
def test_an_address_without_shards_is_named(store, tmp_path, address):
    with pytest.raises(MissingInput, match=f"{address}: no .tar file there"):
        dedup(tmp_path / "run", address)


def test_chained_addresses_are_refused(store):
    with pytest.raises(UsageError, match="chained"):
        list_shards(["memory::file:///etc/0.tar"])


def test_a_shard_cut_short_on_its_way_leaves_nothing(store, tmp_path, monkeypatch):
    def cut(self, source, target, **options):
        Path(target).write_bytes(self.cat_file(source)[:100])

    monkeypatch.setattr(type(store), "get_file", cut)
    monkeypatch.setattr(remote, "_WAIT", wait_none())
    with pytest.raises(PartFailed):
        dedup(tmp_path / "run", "memory://bucket/data", runner={"attempts": 1})
    log = (tmp_path / "run/receipts/fetch/00000.failed.json").read_text()
    assert "100 bytes came" in log
    assert [p for p in (tmp_path / "run").rglob("*.tar*") if p.is_file()] == []
    monkeypatch.undo()
    assert dedup(tmp_path / "run", "memory://bucket/data").rows["scan"] == (8, 8)


def test_a_file_that_is_gone_is_one_line(store, tmp_path):
    with pytest.raises(MissingInput, match=r"memory://bucket/gone.tar"):
        fetch(RemoteFile("memory://bucket/gone.tar", 3, ""), tmp_path / "gone.tar")
    assert not list(tmp_path.glob("*gone*"))
