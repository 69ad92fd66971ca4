"""Shards added to a finished run: the groups of one run over all, ids and kept ones that stay."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_builder import ShardBuilder, jpeg, picture
from vector_builder import parquet

from pipeline.config import make_config
from pipeline.errors import InputError, MissingInput, PartFailed, UsageError
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress

F32 = pa.list_(pa.float32())


def dedup(out: Path, *sources: Path, onto=None, vectors=True, pairs=None, **sections):
    values = {"dataset": {"shards": [str(s) for s in sources], "embeddings": vectors}, **sections}
    if vectors:
        values["pairs"] = {"min_similarity": {"given": 0.9}, **(pairs or {})}
    else:
        values |= {"embed": {"encoders": {"pdq": {"kind": "pdq"}}}, "match": {"encoders": []}}
        values["pairs"] = {"min_similarity": {}, **(pairs or {})}
    values["onto"] = str(onto) if onto else None
    return run_job(Job(make_config(values), out, DEDUP), SilentProgress())


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def result(run: Path) -> dict[str, dict]:
    """duplicates.parquet by key, which the tests make unique."""
    key = {r["image_id"]: r["key"] for p in run.glob("images/part-*") for r in rows(p)}
    found = rows(run / "duplicates.parquet")
    for row in found:
        row["representative"] = key[row["representative_id"]]
        row["now"] = row["group_id"] if row["merged_into"] is None else row["merged_into"]
    return {key[row["image_id"]]: row for row in found}


def partition(found: dict[str, dict]) -> set[frozenset[str]]:
    groups = defaultdict(set)
    for key, row in found.items():
        groups[row["now"]].add(key)
    return {frozenset(group) for group in groups.values()}


def walk(seed: int, n: int) -> np.ndarray:
    """Vectors in the plane of a few clusters: chains, copies and single ones."""
    rng = np.random.default_rng(seed)
    angle = rng.choice(np.linspace(0, 2 * np.pi, 9)[:-1], n) + rng.choice([0, 0.1, 0.3, 0.5], n)
    vectors = np.stack([np.cos(angle), np.sin(angle), np.zeros(n)], axis=1)
    return vectors.astype(np.float32)


def write(folder: Path, keys, vectors) -> Path:
    return parquet(folder / "x.parquet", list(vectors), F32, id=[f"k{i:03d}" for i in keys]).parent


def check_added(before: dict, after: dict, whole: dict, vectors: np.ndarray):
    assert partition(after) == partition(whole)
    sizes = {frozenset(g): len(g) for g in partition(after)}
    assert all(after[key]["group_size"] == sizes[g] for g in sizes for key in g)
    for key, row in before.items():
        assert after[key]["group_id"] == row["group_id"]  # they stay
        assert after[key]["keep"] or not row["keep"]
        assert not after[key]["keep"] or row["keep"]
    for group in partition(after):
        old = {before[key]["now"] for key in group if key in before}
        assert {after[key]["now"] for key in group} == {min(old)} if old else True
        for key in set(group) - set(before):
            assert after[key]["merged_into"] is None
    for key, row in after.items():  # the cover guarantee
        a, b = vectors[int(key[1:])], vectors[int(row["representative"][1:])]
        assert after[row["representative"]]["keep"] and float(a @ b) >= 0.9 - 1e-5
        assert row["similarity_to_representative"] == pytest.approx(float(a @ b), abs=3e-4)
    kept = [key for key, row in after.items() if row["keep"]]
    near = np.triu(vectors[[int(k[1:]) for k in kept]] @ vectors[[int(k[1:]) for k in kept]].T, 1)
    assert near.max(initial=0) < 0.9


slow_fixtures = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=4, deadline=None, suppress_health_check=slow_fixtures)
@given(st.integers(0, 10**6), st.integers(2, 25), st.integers(0, 20), st.booleans())
def test_three_runs_give_the_groups_of_one(tmp_path_factory, seed, first, second, cells):
    root, n = tmp_path_factory.mktemp("onto"), first + second + 5
    vectors = walk(seed, n)
    pairs = {"exact_up_to": 0, "cells": 3, "probes": 3, "reach": 0.5} if cells else {}
    order = np.random.default_rng(seed).permutation(n)
    cuts = [0, first, first + max(second, 1), n]
    sources = [
        write(root / f"s{i}", order[a:b], vectors[order[a:b]])
        for i, (a, b) in enumerate(pairwise(cuts))
    ]
    dedup(root / "whole", *sources, pairs=pairs)
    before, onto = {}, None
    for number, source in enumerate(sources):
        run = root / f"run{number}"
        dedup(run, source, onto=onto, pairs=pairs)
        after = result(run)
        if number < 2:
            part = root / f"part{number}"
            dedup(part, *sources[: number + 1], pairs=pairs)
        check_added(before, after, result(root / "whole" if number == 2 else part), vectors)
        before, onto = after, run


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """Two groups 30 degrees apart, and what lies between them and joins them: 1 is at 0.26 rad."""
    root = tmp_path_factory.mktemp("joined")
    angle = np.array([0.0, 0.05, 0.8, 0.85, 2.5, 0.4, 2.55])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    old = write(root / "old", range(5), vectors[:5])
    new = write(root / "new", (5, 6), vectors[5:])
    dedup(root / "run", old)
    dedup(root / "run2", new, onto=root / "run")
    return root, result(root / "run"), result(root / "run2")


def test_joined_groups_say_what_they_were_merged_into(joined):
    _, before, after = joined
    first, second = before["k000"]["group_id"], before["k002"]["group_id"]
    low, high = sorted((first, second))
    for key in ("k000", "k001", "k002", "k003"):
        assert after[key]["group_id"] == before[key]["group_id"]
        assert after[key]["merged_into"] == (low if after[key]["group_id"] == high else None)
        assert after[key]["group_size"] == 5
    assert (after["k005"]["group_id"], after["k005"]["merged_into"]) == (low, None)
    assert after["k006"]["group_id"] == before["k004"]["group_id"]  # though its id may be smaller
    assert not after["k006"]["keep"] and after["k006"]["representative"] == "k004"


def test_what_reads_groups_takes_them_as_one(joined):
    root, _, after = joined
    facts = rows(root / "run2/groups.parquet")
    assert {row["group_id"] for row in facts} == {after["k005"]["group_id"], after["k006"]["now"]}
    from pipeline.runner.part import Context
    from pipeline.stages.prompts import _captions_by_group

    context = Context(root / "run2", make_config({}))
    assert sorted(c.total() for c in _captions_by_group(context).values()) == [2, 5]


def test_the_join_compares_only_what_is_new(joined):
    root, _, _ = joined
    own = {r["image_id"] for r in rows(root / "run2/images/part-00001.parquet")}
    new = rows(root / "run2/pairs/given/part-00000.parquet")
    assert new and all({row["id_a"], row["id_b"]} & own for row in new)
    old = rows(root / "run2/pairs/given/part-before-00000.parquet")
    assert old == rows(root / "run/pairs/given/part-00000.parquet")


def test_the_same_command_again_redoes_nothing(joined):
    root, _, _ = joined
    data = (root / "run2/duplicates.parquet").read_bytes()
    lines = (root / "run2/logs/metrics.jsonl").read_text()
    dedup(root / "run2", root / "new", onto=root / "run")
    assert (root / "run2/duplicates.parquet").read_bytes() == data
    assert (root / "run2/logs/metrics.jsonl").read_text() == lines


def test_rechoose_lets_a_new_picture_take_the_place_of_an_old_one(tmp_path):
    vectors = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32)
    small = parquet(tmp_path / "a/x.parquet", list(vectors[:1]), F32, id=["k000"], width=[10])
    large = parquet(
        tmp_path / "b/x.parquet", list(vectors[1:]), F32, id=["k001", "k002"], width=[99, 99]
    )
    for folder, name in ((small, "height"), (large, "height")):
        table = pq.read_table(folder)
        pq.write_table(table.append_column(name, table["width"]), folder)
    dedup(tmp_path / "run", small.parent)
    for rechoose, kept in ((False, "k000"), (True, "k001")):
        out = tmp_path / f"run-{rechoose}"
        dedup(out, large.parent, onto=tmp_path / "run", groups={"rechoose": rechoose})
        assert {k for k, row in result(out).items() if row["keep"]} == {kept, "k002"}


def hub(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = np.eye(16)[0] + 0.03 * rng.standard_normal((n, 16))
    return (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32)


def test_hubs_grow_and_keep_one(tmp_path):
    vectors = np.concatenate([hub(0, 60), hub(1, 40), np.eye(16, dtype=np.float32)[1:4]])
    pairs = {"hub_size": 30}
    old = write(tmp_path / "a", range(60), vectors[:60])
    new = write(tmp_path / "b", range(60, 103), vectors[60:])
    dedup(tmp_path / "run", old, pairs=pairs)
    dedup(tmp_path / "run2", new, onto=tmp_path / "run", pairs={"hub_size": 500})  # old ones stay
    before, after = result(tmp_path / "run"), result(tmp_path / "run2")
    check_kept = [key for key, row in after.items() if row["keep"] and row["group_size"] > 1]
    assert check_kept == [k for k, row in before.items() if row["keep"]]
    assert sorted(map(len, partition(after))) == [1, 1, 1, 100]
    assert len(rows(tmp_path / "run2/hubs/given.parquet")) == 100
    star = rows(tmp_path / "run2/pairs/given/part-hubs.parquet")
    assert len(star) == 40  # the others are the old run's


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two sets of shards with the same names and keys: 4 is in both, 0 and 5 are other pictures."""
    root = tmp_path_factory.mktemp("shards")
    for name, pictures in (("a", (0, 1, 1, 4)), ("b", (5, 4, 6))):
        builder = ShardBuilder(root / name / "00000.tar")
        for i, number in enumerate(pictures):
            builder.add(f"{i:09d}", jpeg(picture(number)), f"{name}{i}")
        builder.write()
    dedup(root / "run", root / "a", vectors=False)
    dedup(root / "run2", root / "b", onto=root / "run", vectors=False)
    return root


def test_equal_names_and_keys_of_two_sets_do_not_collide(shards):
    manifest = [row for p in sorted((shards / "run2/images").glob("part*")) for row in rows(p)]
    assert len({row["image_id"] for row in manifest}) == 7
    assert [row["shard"] for row in manifest] == ["00000"] * 4 + ["00001-00000"] * 3
    duplicates = rows(shards / "run2/duplicates.parquet")
    assert sorted(row["group_size"] for row in duplicates) == [1, 1, 1, 2, 2, 2, 2]
    kept = {(row["shard"], row["key"]) for row in rows(shards / "run2/export/keep.parquet")}
    assert ("00000", "000000003") in kept and ("00001-00000", "000000001") not in kept
    assert len(kept) == 5


def test_only_new_shards_are_written_and_the_lists_are_of_all(shards):
    tars = [path.name for path in sorted((shards / "run2/export/shards").glob("*.tar"))]
    assert tars == ["00001-00000.tar"]
    stats = json.loads((shards / "run2/export/shards/00001-00000_stats.json").read_text())
    assert (stats["count"], stats["dropped"]) == (2, 1)
    lists = [rows(shards / f"run2/export/{name}.parquet") for name in ("keep", "drop")]
    assert list(map(len, lists)) == [5, 2]
    assert not list((shards / "run2/receipts/embed").glob("00000.json"))  # not embedded again


def test_files_of_the_old_run_are_linked_not_copied(shards):
    old, new = (shards / run / "images/part-00000.parquet" for run in ("run", "run2"))
    assert old.stat().st_ino == new.stat().st_ino


def test_the_pictures_of_both_can_be_read(shards):
    from pipeline.io.manifest import TrainingImages
    from pipeline.io.runjson import read_run_config
    from pipeline.runner.part import Context
    from pipeline.stages.scan import image_limits, shards_of

    context = Context(shards / "run2", read_run_config(shards / "run2"))
    paths = {shard.name: shard.path for shard in shards_of(context)}
    images = TrainingImages(shards / "run2", paths, image_limits(context))
    for row in rows(shards / "run2/duplicates.parquet"):
        assert images.picture(row["image_id"]).size == (96, 96)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"source": "a"}, UsageError, "00000.tar: is in .*run already; give new shards only"),
        ({"pairs": {"pdq_max_distance": 20}}, InputError, "pairs are of pdq 31.0, not 20.0"),
        ({"pairs": {"pdq_min_quality": 20}}, InputError, "pairs are of pdq_min_quality 50"),
        ({"embed": {"encoders": {"pixels": {"kind": "pixels"}}}}, InputError, "without pixels"),
        ({"onto": "nowhere"}, MissingInput, "not the folder of a run"),
        ({"vectors": True}, InputError, "made from shards; vectors cannot be added"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(shards, tmp_path, change, error, says):
    values = {
        "dataset": {"shards": [str(shards / change.get("source", "b"))]},
        "embed": change.get("embed", {"encoders": {"pdq": {"kind": "pdq"}}}),
        "match": {"encoders": []},
        "pairs": {"min_similarity": {}, **change.get("pairs", {})},
        "onto": str(shards / change.get("onto", "run")),
    }
    if change.get("vectors"):
        source = write(tmp_path / "v", range(3), walk(0, 3))
        values |= {"dataset": {"shards": [str(source)], "embeddings": True}}
        values |= {"pairs": {"min_similarity": {"given": 0.9}}}
        values.pop("embed")
    with pytest.raises(error, match=says) as raised:
        run_job(Job(make_config(values), tmp_path / "out", DEDUP), SilentProgress())
    assert "\n" not in str(raised.value) and not isinstance(raised.value, PartFailed)
