"""Deduplication of vectors that another tool made: ingest to export, through the runner."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vector_builder import clip_retrieval, parquet, planted

import pipeline.stages.scan as scan_module
from pipeline.config import make_config
from pipeline.errors import ConfigError, ModelError, ShardCorrupt
from pipeline.io.embeddings import read_embeddings
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress

THRESHOLD = 0.9
F32 = pa.list_(pa.float32())


def dedup(out: Path, *addresses: Path, threshold: float = THRESHOLD, **sections):
    dataset = {"shards": [str(a) for a in addresses], "embeddings": True}
    values = {"dataset": dataset, "pairs": {"min_similarity": {"given": threshold}}, **sections}
    return run_job(Job(make_config(values), out, DEDUP), SilentProgress())


def rows(*paths: Path) -> list[dict]:
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def manifest(out: Path) -> dict[str, dict]:
    return {row["key"]: row for row in rows(*sorted((out / "images").glob("part-*.parquet")))}


def found_pairs(out: Path) -> dict[tuple[str, str], float]:
    key = {row["image_id"]: row["key"] for row in manifest(out).values()}
    return {
        tuple(sorted((key[row["id_a"]], key[row["id_b"]]))): row["similarity"]
        for row in rows(*sorted((out / "pairs" / "given").glob("*.parquet")))
    }


def brute_force(vectors: np.ndarray, keys: list[str], threshold: float) -> dict:
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1)[:, None]
    cosines = unit @ unit.T
    return {
        tuple(sorted((keys[i], keys[j]))): cosines[i, j]
        for i, j in zip(*np.nonzero(np.triu(cosines >= threshold, 1)), strict=True)
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_all_pairs_are_those_of_brute_force_over_two_files(tmp_path, dtype):
    vectors = (planted(300, copies=60) * 7).astype(dtype)  # of no particular length
    for number, block in enumerate((vectors[:130], vectors[130:])):
        clip_retrieval(tmp_path / "clip", number, block)
    summary = dedup(tmp_path / "run", tmp_path / "clip")
    assert summary.rows["ingest"] == (300, 300) and "scan" not in summary.rows
    keys = [f"{int(i >= 130)}-{i - 130 * (i >= 130):05d}" for i in range(300)]
    expected = brute_force(vectors, keys, THRESHOLD)
    found = found_pairs(tmp_path / "run")
    assert set(found) == set(expected) and 20 < len(found) < 60
    assert all(abs(found[pair] - expected[pair]) < 1e-5 for pair in found)
    kept = {row["key"] for row in rows(tmp_path / "run/export/keep.parquet")}
    dropped = {row["key"] for row in rows(tmp_path / "run/export/drop.parquet")}
    assert kept | dropped == set(keys) and not kept & dropped
    assert not any({a, b} <= kept for a, b in expected)
    assert not (tmp_path / "run/export/shards").exists()
    assert np.load(tmp_path / "run/embeddings/given/img_emb/img_emb_00000.npy").dtype == dtype


def test_rows_and_files_in_another_order_keep_the_same_bytes(tmp_path):
    vectors = planted(40, copies=8)
    ids, captions = [f"k{i}" for i in range(40)], [f"c{i}" for i in range(40)]
    back = list(range(39, -1, -1))
    parquet(tmp_path / "a/x.parquet", list(vectors), F32, id=ids, caption=captions)
    parquet(
        tmp_path / "b/x.parquet",
        list(vectors[back]),
        F32,
        caption=captions[::-1],
        id=ids[::-1],
    )
    for name in "ab":
        dedup(tmp_path / f"run-{name}", tmp_path / name)
    for file in (
        "images/part-00000.parquet",
        "embeddings/given/img_emb/img_emb_00000.npy",
        "embeddings/given/metadata/metadata_00000.parquet",
        "index/given/index.faiss",
        "duplicates.parquet",
        "export/removal_ids.parquet",
    ):
        first, second = (tmp_path / f"run-{name}" / file for name in "ab")
        assert first.read_bytes() == second.read_bytes(), file


def test_every_row_without_a_vector_or_a_key_has_a_reason(tmp_path):
    vectors = [list(v) for v in planted(9, 4)]
    vectors[1][2], vectors[2][0] = float("nan"), float("inf")
    vectors[3], vectors[4], vectors[5] = [0.0] * 4, None, [1.0]
    ids = ["good", "nan", "inf", "zero", "none", "short", "twice", "twice", None]
    parquet(tmp_path / "in/a.parquet", vectors, F32, id=ids)
    summary = dedup(tmp_path / "run", tmp_path / "in")
    assert summary.rows["ingest"] == (9, 1)
    assert summary.rejected["ingest"] == {"bad_key": 1, "no_vector": 5, "repeated_key": 2}
    assert summary.exit_code(0.05) == 2
    table = rows(tmp_path / "run/images/part-00000.parquet")
    assert len({row["image_id"] for row in table}) == 9
    reasons = {row["key"]: (row["status"], row["reason"]) for row in table}
    assert reasons.pop("good") == ("ok", "")
    assert reasons.pop("twice") == ("rejected", "repeated_key")
    assert reasons.pop("") == ("rejected", "bad_key")
    assert set(reasons.values()) == {("rejected", "no_vector")} and len(reasons) == 5
    assert len(rows(tmp_path / "run/duplicates.parquet")) == 1


def test_equal_keys_in_two_data_sets_are_two_pictures(tmp_path):
    vectors = planted(6)
    for name, block in (("one", vectors[:3]), ("two", vectors[3:])):
        clip_retrieval(tmp_path / name, 0, block, image_path=["a", "b", "c"])
    summary = dedup(tmp_path / "run", tmp_path / "one", tmp_path / "two")
    assert summary.rows["ingest"] == (6, 6)
    kept = rows(tmp_path / "run/export/keep.parquet")
    assert {(row["shard"], row["key"]) for row in kept} == {
        (f"{name}-img_emb_0", key) for name in ("one", "two") for key in "abc"
    }
    assert len({row["image_id"] for row in kept}) == 6


def test_equal_digests_are_exact_copies_whatever_their_vectors(tmp_path):
    digest = ["ab" * 32, "AB" * 32, "cd" * 32, "", None, "not a digest"]
    clip_retrieval(tmp_path / "clip", 0, planted(6), sha256=digest)
    dedup(tmp_path / "run", tmp_path / "clip")
    groups: dict[int, list[str]] = {}
    key = {row["image_id"]: row["key"] for row in manifest(tmp_path / "run").values()}
    for row in rows(tmp_path / "run/duplicates.parquet"):
        groups.setdefault(row["group_id"], []).append(key[row["image_id"]])
    assert sorted(map(sorted, groups.values()))[0] == ["0-00000", "0-00001"]
    assert sorted(map(len, groups.values())) == [1, 1, 1, 1, 2]
    assert [row["reason"] for row in rows(tmp_path / "run/export/drop.parquet")] == ["bytes"]


def test_the_larger_picture_is_kept_where_sizes_are_known(tmp_path):
    vectors = planted(1).repeat(3, axis=0)
    clip_retrieval(tmp_path / "c", 0, vectors, width=[8, None, 640], height=[8, 999, 480])
    dedup(tmp_path / "run", tmp_path / "c")
    assert [row["key"] for row in rows(tmp_path / "run/export/keep.parquet")] == ["0-00002"]


def test_uids_urls_and_captions_go_through(tmp_path):
    uids = [f"{i:032x}" for i in range(3)]
    columns = {"uid": uids, "url": ["u0", "u1", None], "caption": [" e\u0301 ", None, "c"]}
    clip_retrieval(tmp_path / "c", 0, planted(3), **columns)
    dedup(tmp_path / "run", tmp_path / "c")
    table = manifest(tmp_path / "run")
    assert [table[f"0-0000{i}"]["caption"] for i in range(3)] == ["é", "", "c"]
    assert {row["uid"]: row["url"] for row in rows(tmp_path / "run/export/keep.parquet")} == {
        uids[0]: "u0",
        uids[1]: "u1",
        uids[2]: None,
    }
    subset = np.load(tmp_path / "run/export/keep.npy")
    assert [f"{a:016x}{b:016x}" for a, b in subset.tolist()] == uids


def test_vectors_of_two_widths_are_refused_by_name(tmp_path):
    clip_retrieval(tmp_path / "c", 0, planted(3, 8))
    clip_retrieval(tmp_path / "c", 1, planted(3, 9))
    with pytest.raises(Exception, match="index/given failed"):
        dedup(tmp_path / "run", tmp_path / "c")
    error = json.loads((tmp_path / "run/receipts/index/given.failed.json").read_text())["error"]
    assert "img_emb_00000.npy is 8 wide" in error and "img_emb_00001.npy 9" in error


def test_a_file_that_lost_all_rows_does_not_stop_the_rest(tmp_path):
    clip_retrieval(tmp_path / "c", 0, planted(3, 8))
    clip_retrieval(tmp_path / "c", 1, np.full((2, 8), np.nan, np.float32))
    parquet(tmp_path / "c2/empty.parquet", [], F32, id=pa.array([], pa.string()))
    summary = dedup(tmp_path / "run", tmp_path / "c", tmp_path / "c2")
    assert summary.rows["ingest"] == (5, 3) and summary.rows["index"] == (3, 3)


def test_a_set_without_any_vector_ends_without_groups(tmp_path):
    clip_retrieval(tmp_path / "c", 0, np.zeros((2, 8), np.float32))
    summary = dedup(tmp_path / "run", tmp_path / "c")
    assert summary.rejected["ingest"] == {"no_vector": 2}
    assert rows(tmp_path / "run/duplicates.parquet") == []


def test_disagreeing_files_stop_the_run_before_any_work(tmp_path):
    clip_retrieval(tmp_path / "c", 0, planted(3))
    clip_retrieval(tmp_path / "c", 1, planted(3), image_path=["a"])
    with pytest.raises(ShardCorrupt, match=r"img_emb_1.npy has 3 rows, .*metadata_1.parquet 1"):
        dedup(tmp_path / "run", tmp_path / "c")
    assert not (tmp_path / "run/images").exists()


def test_limit_reads_the_first_rows(tmp_path):
    for number in range(3):
        clip_retrieval(tmp_path / "c", number, planted(4, seed=number))
    summary = dedup(tmp_path / "run", tmp_path / "c", limit=6)
    assert summary.rows["ingest"] == (6, 6)
    assert {key[0] for key in manifest(tmp_path / "run")} == {"0", "1"}


def test_a_second_run_does_nothing_and_a_changed_file_is_noticed(tmp_path):
    clip_retrieval(tmp_path / "c", 0, planted(20))
    dedup(tmp_path / "run", tmp_path / "c")
    stamp = (tmp_path / "run/duplicates.parquet").stat().st_mtime_ns
    dedup(tmp_path / "run", tmp_path / "c")
    assert (tmp_path / "run/duplicates.parquet").stat().st_mtime_ns == stamp
    first = json.loads((tmp_path / "run/index/given/index.json").read_text())["fingerprint"]
    clip_retrieval(tmp_path / "c", 0, planted(20, seed=1))
    with pytest.raises(Exception, match="ingest/00000: inputs"):
        dedup(tmp_path / "run", tmp_path / "c")
    dedup(tmp_path / "other", tmp_path / "c")
    second = json.loads((tmp_path / "other/index/given/index.json").read_text())["fingerprint"]
    assert first != second  # an unknown encoder is known by what it made


def test_colliding_ids_are_replaced_in_the_vectors_too(tmp_path, monkeypatch):
    """Ids are hashes; here two files share one, as two of five billion would."""
    original = scan_module.hash63
    monkeypatch.setattr(
        scan_module,
        "hash63",
        lambda *parts: 5 if parts[-1] == "x" else original(*parts),
    )
    vectors = planted(4, 8)
    for number in (0, 1):
        block = vectors[2 * number : 2 * number + 2]
        clip_retrieval(tmp_path / "c", number, block, image_path=["x", f"y{number}"])
    dedup(tmp_path / "run", tmp_path / "c")
    ids, stored = read_embeddings(tmp_path / "run", "given", normalise=False)
    assert len(set(ids.tolist())) == 4
    (replaced,) = rows(tmp_path / "run/images/rekeyed.parquet")
    np.testing.assert_allclose(stored[ids == 5][0], vectors[0], atol=1e-6)
    np.testing.assert_allclose(stored[ids == replaced["new_image_id"]][0], vectors[2], atol=1e-6)
    assert len(rows(tmp_path / "run/duplicates.parquet")) == 4


# The configuration.


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({}, "no calibrated default"),
        ({"pairs": {"min_similarity": {"lite0": 0.9}}}, "no calibrated default"),
        ({"embed": {"encoders": {"lite0": {"kind": "lite0"}}}}, "leave embed.encoders out"),
        ({"export": {"write_shards": True}}, "export.write_shards"),
    ],
)
def test_what_does_not_fit_given_vectors_is_a_mistake(sections, says):
    with pytest.raises(ConfigError, match=says):
        make_config({"dataset": {"shards": ["x"], "embeddings": True}, **sections})


def test_given_is_no_encoder_of_pictures():
    with pytest.raises(ConfigError, match=r"kind given is for dataset.embeddings"):
        make_config({"embed": {"encoders": {"given": {"kind": "given"}}}})
    from pipeline.config import Encoder
    from pipeline.encoders import build_encoder

    with pytest.raises(ModelError, match="were given"):
        build_encoder(Encoder(kind="given"))


def test_equal_vectors_without_a_digest_are_a_star_not_their_square(tmp_path):
    """300 rows of one vector beside 20 others and a near one: 299 pairs and one, not 44,850."""
    vectors = planted(20, copies=0)
    one = vectors[3]
    near = one + 0.01 * vectors[4]
    everything = np.concatenate([vectors, np.repeat(one[None], 299, axis=0), near[None]])
    clip_retrieval(tmp_path / "clip", 0, everything[:200].astype(np.float16))
    clip_retrieval(tmp_path / "clip", 1, everything[200:].astype(np.float16))
    dedup(tmp_path / "run", tmp_path / "clip")
    star = rows(*sorted((tmp_path / "run/pairs/exact").glob("*.parquet")))
    assert len(star) == 299 and {row["id_a"] for row in star} == {min(r["id_a"] for r in star)}
    assert {(row["reason"], row["similarity"]) for row in star} == {("descriptor", 1.0)}
    assert len(rows(*sorted((tmp_path / "run/pairs/given").glob("*.parquet")))) == 1
    found = [r for r in rows(tmp_path / "run/duplicates.parquet") if r["group_size"] == 301]
    assert len(found) == 301 and sum(row["keep"] for row in found) == 1
    assert {row["reason"] for row in found} == {"kept", "descriptor"}


def hub_set():
    """400 vectors around one, 60 around it but farther away, and 100 others with copies."""
    rng = np.random.default_rng(5)
    others = planted(100, copies=20).astype(np.float64)
    others /= np.linalg.norm(others, axis=1)[:, None]
    noise = rng.standard_normal((460, others.shape[1])) / np.sqrt(others.shape[1])
    noise[:400] *= 0.08
    noise[400:] *= 0.28
    return np.concatenate([others[0] + noise, others]).astype(np.float32)


def test_a_hub_is_a_star_of_which_one_is_kept(tmp_path):
    vectors, keys = hub_set(), [f"k{i:03d}" for i in range(560)]
    parquet(tmp_path / "a/x.parquet", list(vectors), F32, id=keys)
    dedup(
        tmp_path / "run", tmp_path / "a", pairs={"min_similarity": {"given": 0.9}, "hub_size": 99}
    )
    near = brute_force(vectors, keys, 0.9)
    found = found_pairs(tmp_path / "run")
    assert set(found) <= set(near) and len(found) < 4000 and len(near) > 70_000
    of_hub = rows(tmp_path / "run/hubs/given.parquet")
    key = {row["image_id"]: row["key"] for row in manifest(tmp_path / "run").values()}
    hub = {key[row["image_id"]] for row in of_hub}
    (leader,) = {key[row["leader_id"]] for row in of_hub}
    assert hub > set(keys[:400]) - {leader} or len(hub) > 390
    outside = {pair for pair in near if not (set(pair) & (hub - {leader}))}
    assert outside <= set(found)  # complete but for the hub's members
    kept = {row["key"] for row in rows(tmp_path / "run/export/keep.parquet")}
    assert kept & hub == {leader}
    for row in rows(tmp_path / "run/duplicates.parquet"):
        if not row["keep"]:  # the cover guarantee, against brute force
            pair = tuple(sorted((key[row["image_id"]], key[row["representative_id"]])))
            assert near[pair] >= row["similarity_to_representative"] - 1e-5
            assert row["similarity_to_representative"] >= 0.9
    (recall,) = (json.loads(p.read_text()) for p in (tmp_path / "run/recall").glob("*.json"))
    assert recall["pairs_found"] == recall["pairs_true"] > 0


def test_hubs_do_not_depend_on_files_rows_or_cells(tmp_path):
    vectors, keys = hub_set(), [f"k{i:03d}" for i in range(560)]
    parquet(tmp_path / "a/x.parquet", list(vectors), F32, id=keys)
    parquet(tmp_path / "b/x.parquet", list(vectors[::-1]), F32, id=keys[::-1])
    hubs = []
    for name, extra in (("a", {}), ("b", {"exact_up_to": 100, "cells": 6, "probes": 3})):
        pairs = {"min_similarity": {"given": 0.9}, "hub_size": 99, **extra}
        dedup(tmp_path / f"run-{name}", tmp_path / name, pairs=pairs)
        hubs.append((tmp_path / f"run-{name}" / "hubs/given.parquet").read_bytes())
    assert hubs[0] == hubs[1] and len(rows(tmp_path / "run-a/hubs/given.parquet")) > 390
