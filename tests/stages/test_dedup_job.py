"""scan to export on shards whose duplicates are known, through the runner, serially."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from shard_builder import ShardBuilder, jpeg, picture

from pipeline.config import make_config
from pipeline.io.manifest import count_accepted, read_images
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress


def _run(shards: Path, out: Path, **sections):
    values = {"dataset": {"shards": [str(shards)]}, **sections}
    return run_job(Job(make_config(values), out, DEDUP), SilentProgress())


def _rows(path: Path):
    return pq.read_table(path).to_pylist()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two shards: 12 pictures; copies of 3 by bytes, pixels and quality, one of 5; a failure."""
    root = tmp_path_factory.mktemp("dedup")
    first = ShardBuilder(root / "shards" / "00000.tar")
    for i in range(8):
        first.add(f"a{i}", jpeg(picture(i)), f"picture number {i}")
    first.rows.append({"key": "gone", "status": "failed_to_download", "error_message": "404"})
    first.write()
    second = ShardBuilder(root / "shards" / "00001.tar")
    for i in range(8, 12):
        second.add(f"b{i}", jpeg(picture(i)), f"picture number {i}")
    second.add("copy", jpeg(picture(3)), "the same bytes")
    png = io.BytesIO()
    Image.open(io.BytesIO(jpeg(picture(3)))).save(png, "PNG")
    second.add("pixels", png.getvalue(), "the same pixels", extension="png")
    second.add("again", jpeg(picture(3), 60), "encoded again")
    second.add("moved", jpeg(picture(5, 97).crop((1, 1, 97, 97))), "moved by a pixel")
    second.write()
    summary = _run(root / "shards", root / "run")
    return root, summary


def _group_of(root: Path) -> dict[str, int]:
    keys = {}
    for path in sorted((root / "run" / "images").glob("part-*.parquet")):
        keys |= {row["image_id"]: row["key"] for row in _rows(path)}
    return {
        keys[row["image_id"]]: row["group_id"] for row in _rows(root / "run/duplicates.parquet")
    }


def test_every_row_is_accounted_for(run):
    _root, summary = run
    assert summary.rows["scan"] == (17, 16)
    assert summary.rejected["scan"] == {"not_downloaded": 1}
    assert summary.exit_code(0.05) == 0


def test_groups_are_the_planted_ones(run):
    root, _ = run
    groups: dict[int, set[str]] = {}
    for key, group in _group_of(root).items():
        groups.setdefault(group, set()).add(key)
    large = sorted(sorted(g) for g in groups.values() if len(g) > 1)
    assert large == [["a3", "again", "copy", "pixels"], ["a5", "moved"]]


def test_reasons_tell_how_a_copy_was_found(run):
    root, _ = run
    reasons = {}
    for name in ("exact", "pdq", "lite0"):
        for path in (root / "run" / "pairs" / name).glob("*.parquet"):
            reasons.setdefault(name, []).extend(row["reason"] for row in _rows(path))
    assert sorted(reasons["exact"]) == ["bytes", "pixels"] or sorted(reasons["exact"]) == [
        "pixels",
        "pixels",
    ]
    assert set(reasons["lite0"]) == {"descriptor"}


def test_one_picture_of_each_group_is_kept_and_covers_the_rest(run):
    root, _ = run
    rows = _rows(root / "run/duplicates.parquet")
    by_id = {row["image_id"]: row for row in rows}
    for group in {row["group_id"] for row in rows}:
        assert sum(row["keep"] for row in rows if row["group_id"] == group) == 1
    for row in rows:
        assert by_id[row["representative_id"]]["keep"]
        assert row["similarity_to_representative"] >= 0.87


def test_exported_members_have_their_bytes(run):
    root, _ = run
    originals = {}
    for shard in sorted((root / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            originals |= {m.name: tar.extractfile(m).read() for m in tar}
    kept = {row["key"] for row in _rows(root / "run/export/keep.parquet")}
    found = {}
    for shard in sorted((root / "run/export/shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            names = {m.name: tar.extractfile(m).read() for m in tar}
        found |= names
        table = _rows(shard.with_suffix(".parquet"))
        assert {row["key"] for row in table} == {name.split(".")[0] for name in names}
        stats = json.loads(shard.with_name(f"{shard.stem}_stats.json").read_text())
        assert stats["successes"] == len(table)
    assert {name.split(".")[0] for name in found} == kept
    assert all(originals[name] == data for name, data in found.items())
    dropped = {row["key"] for row in _rows(root / "run/export/drop.parquet")}
    assert dropped | kept == set(_group_of(root)) and not dropped & kept


def test_datacomp_subset_is_sorted_pairs_of_the_uid_halves(run):
    root, _ = run
    subset = np.load(root / "run/export/keep.npy")
    assert subset.dtype == np.dtype("u8,u8")
    uids = sorted(row["uid"] for row in _rows(root / "run/export/keep.parquet"))
    assert [f"{a:016x}{b:016x}" for a, b in subset.tolist()] == uids


def test_embeddings_are_in_the_clip_retrieval_layout(run):
    root, _ = run
    for name, width, dtype in (("lite0", 1280, np.float16), ("pdq", 32, np.uint8)):
        folder = root / "run/embeddings" / name
        for part in ("00000", "00001"):
            vectors = np.load(folder / f"img_emb/img_emb_{part}.npy")
            table = pq.read_table(folder / f"metadata/metadata_{part}.parquet")
            assert vectors.shape == (table.num_rows, width)
            assert vectors.dtype == dtype


def test_order_and_sharding_do_not_matter(run, tmp_path):
    """The same samples in one shard, in reverse: the same pictures are kept."""
    root, _ = run
    merged = ShardBuilder(tmp_path / "shards" / "00000.tar")
    rows, members = [], {}
    for shard in sorted((root / "shards").glob("*.tar")):
        rows += [r for r in _rows(shard.with_suffix(".parquet")) if r["status"] == "success"]
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                members.setdefault(key, {})[extension] = tar.extractfile(member).read()
    for row in reversed(rows):
        parts = members[row["key"]]
        extension = "png" if "png" in parts else "jpg"
        merged.add(row["key"], parts[extension], row["caption"], extension=extension)
        merged.rows[-1]["uid"] = row["uid"]
    merged.write()
    _run(tmp_path / "shards", tmp_path / "run")
    kept = {row["uid"] for row in _rows(tmp_path / "run/export/keep.parquet")}
    assert kept == {row["uid"] for row in _rows(root / "run/export/keep.parquet")}


def test_dedup_of_the_deduplicated_set_drops_nothing(run, tmp_path):
    root, _ = run
    _run(root / "run/export/shards", tmp_path / "run")
    assert _rows(tmp_path / "run/export/drop.parquet") == []


def test_limit_reads_the_first_rows_only(run, tmp_path):
    root, _ = run
    config = make_config({"dataset": {"shards": [str(root / "shards")]}, "limit": 10})
    summary = run_job(Job(config, tmp_path / "run", DEDUP[:5]), SilentProgress())
    assert summary.rows["scan"][0] == 10


def test_a_threshold_of_one_keeps_recoloured_pictures_apart(tmp_path):
    """`max_pixel_l2` separates what descriptors call the same."""
    builder = ShardBuilder(tmp_path / "shards" / "00000.tar")
    original = picture(1)
    swapped = Image.merge("RGB", original.split()[::-1])
    builder.add("one", jpeg(original), "one").add("two", jpeg(swapped), "recoloured")
    builder.write()
    loose = {"pairs": {"min_similarity": {"lite0": 0.3}}}
    strict = {"pairs": {"min_similarity": {"lite0": 0.3}, "max_pixel_l2": 0.08}}
    for sections, expected in ((loose, 1), (strict, 2)):
        out = tmp_path / f"run{expected}"
        _run(tmp_path / "shards", out, **sections)
        assert len({r["group_id"] for r in _rows(out / "duplicates.parquet")}) == expected


def _pairs(run: Path) -> list[tuple]:
    rows = [row for path in sorted(run.glob("pairs/lite0/*.parquet")) for row in _rows(path)]
    return sorted((r["id_a"], r["id_b"], r["similarity"], r["reason"]) for r in rows)


def test_cells_that_are_all_visited_give_the_pairs_of_all_with_all(run, tmp_path):
    root, _ = run
    cells = {"exact_up_to": 5, "cells": 3, "probes": 3, "rows_per_part": 4}
    summary = _run(root / "shards", tmp_path / "cells", pairs=cells)
    assert summary.rows["cells"] == (14, 14)  # two of the 16 are exact copies
    assert len(list((tmp_path / "cells/pairs/lite0").glob("*.parquet"))) > 1
    assert _pairs(tmp_path / "cells") == _pairs(root / "run")
    duplicates = "duplicates.parquet"
    assert _rows(tmp_path / "cells" / duplicates) == _rows(root / "run" / duplicates)
    recall = json.loads((tmp_path / "cells/recall/lite0.json").read_text())
    assert (recall["join"], recall["cells"], recall["recall"]) == ("cells", 3, 1.0)


def test_a_join_that_misses_pairs_says_so(tmp_path):
    builder = ShardBuilder(tmp_path / "shards" / "00000.tar")
    for i in range(20):
        builder.add(f"a{i}", jpeg(picture(i)), f"picture number {i}")
        builder.add(f"b{i}", jpeg(picture(i), 40), f"picture number {i}")
    builder.write()
    pairs = {"exact_up_to": 5, "cells": 20, "probes": 1, "min_similarity": {"lite0": 0.3}}
    _run(tmp_path / "shards", tmp_path / "run", pairs=pairs)
    recall = json.loads((tmp_path / "run/recall/lite0.json").read_text())
    found = len(_pairs(tmp_path / "run"))
    assert recall["pairs_found"] == found < recall["pairs_true"]  # the sample is the whole set
    assert recall["recall"] == found / recall["pairs_true"]
    assert recall["ci_low"] < recall["recall"] < recall["ci_high"]


def test_the_recall_of_all_with_all_is_measured_too(run):
    root, _ = run
    for name in ("lite0", "pdq"):
        recall = json.loads((root / f"run/recall/{name}.json").read_text())
        assert (recall["join"], recall["recall"]) == ("all with all", 1.0)
        assert json.loads((root / "run/run.json").read_text())["recall"][name] == recall


def test_large_pictures_are_embedded_reduced_and_threads_change_no_byte(tmp_path):
    """2050 x 2050 JPEGs decode at half their size for PDQ's 1024."""
    builder = ShardBuilder(tmp_path / "shards" / "00000.tar")
    for i in range(4):
        builder.add(f"a{i}", jpeg(picture(i, 2050)), "large")
    builder.members[3] = (builder.members[3][0], b"\xff\xd8\xff not a picture")
    builder.write()
    bytes_of = {}
    for threads in (1, 3):
        out = tmp_path / f"run{threads}"
        runner = {"threads_per_part": threads, "max_rejected": 1.0}
        _run(tmp_path / "shards", out, runner=runner, embed={"batch_size": 2})
        files = sorted((out / "embeddings").rglob("*.*"))
        bytes_of[threads] = {path.relative_to(out): path.read_bytes() for path in files}
        receipt = json.loads(next(out.glob("**/embed/00000.json")).read_text())
        assert receipt["fields"]["params"]["least_side"] == 1024
        assert receipt["rows_out"] == 3
    assert bytes_of[1] == bytes_of[3]
    assert len(bytes_of[1]) >= 9


def test_accepted_rows_are_counted_part_by_part(run):
    root, _ = run
    assert count_accepted(root / "run") == read_images(root / "run").num_rows == 16
