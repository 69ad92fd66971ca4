"""Crops, writing and borders, which the descriptor alone would leave out, through the whole job."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_pictures import textured
from shard_builder import ShardBuilder, jpeg

from pipeline.calibration.edits import EDITS
from pipeline.config import make_config
from pipeline.deduplication import dedup_settings
from pipeline.errors import ConfigError, UsageError
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress

EDITED = ("crop30", "crop50", "pad", "rot5")
OWN = {"run.json", ".lock", "digests.json", "metrics.jsonl"}


def _shards(folder: Path, extra: int = 0) -> Path:
    """Ten strangers, and edits of the first three of them."""
    shard = ShardBuilder(folder / "00000.tar")
    for number in range(10 + extra):
        shard.add(f"n{number}", jpeg(textured(number)), f"picture {number}")
    for number in range(3):
        for place, name in enumerate(EDITED):
            edited = EDITS[name](textured(number), np.random.default_rng(place), textured(50))
            shard.add(f"n{number}{name}", jpeg(edited), f"{name} of {number}")
    shard.write()
    return folder


def _run(shards: Path, out: Path, **sections):
    values = {"dataset": {"shards": [str(shards)]}, **sections}
    run_job(Job(make_config(values), out, DEDUP), SilentProgress())
    return out


def _groups(run: Path) -> set[frozenset[str]]:
    keys = {
        row["image_id"]: row["key"]
        for path in (run / "images").glob("part-*.parquet")
        for row in pq.read_table(path).to_pylist()
    }
    groups: dict[int, set[str]] = {}
    for row in pq.read_table(run / "duplicates.parquet").to_pylist():
        groups.setdefault(row["group_id"], set()).add(keys[row["image_id"]])
    return {frozenset(group) for group in groups.values()}


def _verified(run: Path) -> list[dict]:
    paths = sorted((run / "pairs" / "verified").glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def _tree(run: Path) -> dict[str, bytes]:
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in OWN)
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in files
        if "receipts" not in path.parts
    }


EXPECTED = {frozenset({f"n{n}"} | {f"n{n}{name}" for name in EDITED}) for n in range(3)} | {
    frozenset({f"n{n}"}) for n in range(3, 10)
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("borderline")
    return _run(_shards(root / "shards"), root / "run")


def test_edits_join_their_original_and_strangers_stay_alone(run):
    assert _groups(run) == EXPECTED


def test_without_it_the_descriptor_leaves_some_out(run, tmp_path):
    alone = _run(run.parent / "shards", tmp_path / "run", borderline={"neighbours": 0})
    assert not (alone / "pairs" / "verified").exists()
    assert len(_groups(alone)) > len(EXPECTED)


def test_what_was_verified_lies_below_the_threshold_and_says_so(run):
    rows = _verified(run)
    assert rows
    assert {row["reason"] for row in rows} == {"verified"}
    assert all(0.68 <= row["similarity"] < 0.92 for row in rows)
    others = {
        (row["id_a"], row["id_b"])
        for path in (run / "pairs").glob("*/part-*.parquet")
        if path.parent.name != "verified"
        for row in pq.read_table(path).to_pylist()
    }
    assert not others & {(row["id_a"], row["id_b"]) for row in rows}


def test_threads_and_blocks_change_no_pair(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.stages.borderline._ROWS", 5)
    monkeypatch.setattr("pipeline.stages.borderline._PAIRS_AT_ONCE", 3)
    monkeypatch.setattr("pipeline.stages.borderline._CACHED", 2)
    runner = {"threads_per_part": 2}
    other = _run(run.parent / "shards", tmp_path / "run", runner=runner)
    assert len(list((other / "pairs/verified").glob("*.parquet"))) > 1
    key = ("id_a", "id_b", "similarity")
    assert {tuple(r[k] for k in key) for r in _verified(other)} == {
        tuple(r[k] for k in key) for r in _verified(run)
    }
    for name in ("duplicates.parquet", "groups.parquet"):
        assert (other / name).read_bytes() == (run / name).read_bytes()


def test_the_same_in_cells_that_are_all_visited(run, tmp_path):
    pairs = {"exact_up_to": 5, "cells": 2, "probes": 2}
    other = _run(run.parent / "shards", tmp_path / "run", pairs=pairs)
    assert _groups(other) == EXPECTED


def test_unrelated_pictures_change_no_group(run, tmp_path):
    other = _run(_shards(tmp_path / "shards", extra=4), tmp_path / "run")
    assert _groups(other) == EXPECTED | {frozenset({f"n{n}"}) for n in range(10, 14)}


def test_a_second_run_finds_everything_done(run):
    before = _tree(run)
    _run(run.parent / "shards", run)
    assert _tree(run) == before


def test_pixels_still_have_their_say(run, tmp_path):
    strict = _run(run.parent / "shards", tmp_path / "run", pairs={"max_pixel_l2": 0.01})
    assert not _verified(strict)


def test_vectors_alone_cannot_be_verified(tmp_path):
    (tmp_path / "img_emb").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", np.eye(3, dtype=np.float16))
    (tmp_path / "metadata").mkdir()
    pq.write_table(pa.table({"id": [1, 2, 3]}), tmp_path / "metadata" / "metadata_0.parquet")
    with pytest.raises(UsageError, match="looks at pictures"):
        dedup_settings([str(tmp_path)], None, threshold=0.9, verify=True)


def test_verify_looks_farther():
    thorough = make_config(dedup_settings(["shards"], None, verify=True)).borderline
    default = make_config(dedup_settings(["shards"], None)).borderline
    assert thorough.neighbours > default.neighbours
    assert thorough.margin > default.margin


@pytest.mark.parametrize("name", ["exact", "verified"])
def test_an_encoder_cannot_take_the_name_of_such_pairs(name):
    with pytest.raises(ConfigError, match="taken"):
        make_config({"embed": {"encoders": {name: {"kind": "lite0"}}}})
