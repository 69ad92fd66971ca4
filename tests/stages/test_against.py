"""Decontamination: training pictures that an evaluation set holds too."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from shard_builder import ShardBuilder, jpeg, picture
from vector_builder import clip_retrieval, planted

from pipeline.config import make_config
from pipeline.errors import InputError, MissingInput
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress


def run(out: Path, train: Path, *against: Path, **sections):
    values = {"dataset": {"shards": [str(train)]}, "against": [str(a) for a in against]}
    return run_job(Job(make_config({**values, **sections}), out, DEDUP), SilentProgress())


def run_vectors(out: Path, train: Path, *against: Path, threshold: float = 0.9, **sections):
    values = {
        "dataset": {"shards": [str(train)], "embeddings": True},
        "against": [str(a) for a in against],
        "pairs": {"min_similarity": {"given": threshold}},
    }
    return run_job(Job(make_config(values | sections), out, DEDUP), SilentProgress())


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def keys_of(out: Path) -> dict[int, str]:
    parts = sorted((out / "images").glob("part-*.parquet"))
    return {row["image_id"]: row["key"] for path in parts for row in rows(path)}


def listed(out: Path) -> dict[str, dict]:
    key = keys_of(out)
    return {key[row["image_id"]]: row for row in rows(out / "export/contaminated.parquet")}


def kept(out: Path) -> set[str]:
    return {row["key"] for row in rows(out / "export/keep.parquet")}


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# Pictures.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Training pictures 0 to 9 and variants of the evaluation set's 20 to 25."""
    root = tmp_path_factory.mktemp("against")
    first = ShardBuilder(root / "train/00000.tar")
    for i in range(5):
        first.add(f"a{i}", jpeg(picture(i)), f"picture {i}")
    first.add("bytes", jpeg(picture(20)), "the same file")
    decoded = Image.open(io.BytesIO(jpeg(picture(21))))
    first.add("pixels", png(decoded), "the same pixels", extension="png").write()
    second = ShardBuilder(root / "train/00001.tar")
    for i in range(5, 10):
        second.add(f"b{i}", jpeg(picture(i)), f"picture {i}")
    second.add("again", jpeg(picture(22), 60), "encoded again")
    second.add("twin", png(decoded), "another file of these pixels", extension="png")
    second.add("bad", b"no picture", "unreadable").write()
    evaluation = ShardBuilder(root / "val/00000.tar")
    for i in range(20, 26):  # the keys of the training set, on purpose
        evaluation.add(f"a{i - 20}", jpeg(picture(i)), f"picture {i}")
    evaluation.add("copy", jpeg(picture(20)), "the same file again").write()
    summary = run(root / "run", root / "train", root / "val")
    return root, summary


def test_copies_of_evaluation_pictures_are_listed_with_the_nearest(pictures):
    root, _ = pictures
    found = listed(root / "run")
    assert set(found) == {"bytes", "pixels", "twin", "again"}
    expected = {"bytes": "a0", "pixels": "a1", "twin": "a1", "again": "a2"}
    assert {key: row["eval_key"] for key, row in found.items()} == expected
    assert {row["eval_dataset"] for row in found.values()} == {"val"}
    assert {row["eval_shard"] for row in found.values()} == {"00000"}
    assert [found[key]["reason"] for key in ("bytes", "pixels", "twin")] == [
        "bytes",
        "pixels",
        "pixels",
    ]
    assert found["again"]["reason"] in ("pdq", "descriptor")
    assert found["bytes"]["similarity"] == 1 and found["again"]["similarity"] >= 0.87
    assert all(row["uid"] and row["url"] for row in found.values())


def test_they_are_dropped_everywhere(pictures):
    root, summary = pictures
    assert kept(root / "run") == {f"a{i}" for i in range(5)} | {f"b{i}" for i in range(5, 10)}
    dropped = {row["key"]: row["reason"] for row in rows(root / "run/export/drop.parquet")}
    assert dropped == dict.fromkeys(("bytes", "pixels", "twin", "again"), "contaminated")
    assert summary.rejected["export"] == {"contaminated": 4}
    removed = [row["id"] for row in rows(root / "run/export/removal_ids.parquet")]
    assert removed == sorted(row["uid"] for row in rows(root / "run/export/drop.parquet"))
    table = {row["image_id"]: row for row in rows(root / "run/duplicates.parquet")}
    assert len(table) == 14
    for row in table.values():  # what is kept never stands for what an evaluation set holds
        if row["reason"] == "contaminated":
            assert row["representative_id"] == row["image_id"] and not row["keep"]
        else:
            assert table[row["representative_id"]]["keep"]


def test_the_evaluation_set_is_a_run_of_its_own_and_is_counted(pictures):
    root, summary = pictures
    assert summary.rows["against val scan"] == (7, 7)
    assert summary.rows["against"] == (14, 14)
    assert (root / "run/against/00000/run.json").is_file()
    assert not (root / "run/against/00000/duplicates.parquet").exists()


def test_a_finished_run_serves_as_well_as_its_shards(pictures, tmp_path):
    root, _ = pictures
    run(tmp_path / "val", root / "val")
    run(tmp_path / "run", root / "train", tmp_path / "val")
    for name in ("duplicates", "export/keep", "export/contaminated"):
        theirs, ours = rows(root / f"run/{name}.parquet"), rows(tmp_path / f"run/{name}.parquet")
        assert theirs == ours, name
    assert not (tmp_path / "run/against").exists()


def test_a_run_with_another_encoder_is_refused(pictures, tmp_path):
    root, _ = pictures
    only_pdq = {
        "embed": {"encoders": {"pdq": {"kind": "pdq"}}},
        "pairs": {"min_similarity": {}},
        "match": {"encoders": []},
    }
    run(tmp_path / "val", root / "val", **only_pdq)
    with pytest.raises(InputError, match=r"val: embedded without lite0"):
        run(tmp_path / "run", root / "train", tmp_path / "val")
    (tmp_path / "val/duplicates.parquet").unlink()
    with pytest.raises(MissingInput, match="give the --out of `dedup`"):
        run(tmp_path / "other", root / "train", tmp_path / "val", **only_pdq)


def test_pixels_must_agree_where_the_run_says_so(tmp_path):
    original = picture(1)
    swapped = Image.merge("RGB", original.split()[::-1])
    ShardBuilder(tmp_path / "train/0.tar").add("one", jpeg(swapped), "recoloured").write()
    ShardBuilder(tmp_path / "val/0.tar").add("one", jpeg(original), "one").write()
    loose = {"min_similarity": {"lite0": 0.3}}
    for name, pairs, found in (
        ("loose", loose, {"one"}),
        ("strict", loose | {"max_pixel_l2": 0.08}, set()),
    ):
        run(tmp_path / name, tmp_path / "train", tmp_path / "val", pairs=pairs)
        assert set(listed(tmp_path / name)) == found


@pytest.mark.parametrize("content", ["nothing", "unreadable"])
def test_an_evaluation_set_without_pictures_is_an_error_before_the_training_set(tmp_path, content):
    """A set of which nothing can be read would otherwise pass as clean."""
    ShardBuilder(tmp_path / "train/0.tar").add("a", jpeg(picture(1)), "a").write()
    (tmp_path / "val").mkdir()
    if content == "unreadable":
        ShardBuilder(tmp_path / "val/0.tar").add("a", b"no picture", "a").write()
    with pytest.raises(InputError, match=r"val: (no .tar file|not one picture)"):
        run(tmp_path / "run", tmp_path / "train", tmp_path / "val")
    assert not (tmp_path / "run/images").exists()


# Vectors, whose pairs brute force knows.


def brute_force(train: np.ndarray, evaluation: np.ndarray, threshold: float) -> dict[int, int]:
    first, second = (v.astype(np.float64) for v in (train, evaluation))
    first /= np.linalg.norm(first, axis=1)[:, None]
    second /= np.linalg.norm(second, axis=1)[:, None]
    cosines = first @ second.T
    near = np.flatnonzero(cosines.max(axis=1) >= threshold)
    return {int(i): int(cosines[i].argmax()) for i in near}


@pytest.mark.parametrize("block", [7, 2048])
def test_contaminated_rows_are_those_of_brute_force(tmp_path, monkeypatch, block):
    monkeypatch.setattr("pipeline.stages.against._ROWS_AT_ONCE", block)
    both = planted(240, copies=80)
    train, evaluation = both[60:], both[:60]
    for number, part in enumerate((train[:100], train[100:])):
        clip_retrieval(tmp_path / "train", number, part)
    for number, part in enumerate((evaluation[:20], evaluation[20:])):
        clip_retrieval(tmp_path / "val", number, part)
    run_vectors(tmp_path / "run", tmp_path / "train", tmp_path / "val")
    found = listed(tmp_path / "run")

    def key(row: int, first: int) -> str:
        return f"{int(row >= first)}-{row - first * (row >= first):05d}"

    expected = {key(i, 100): key(j, 20) for i, j in brute_force(train, evaluation, 0.9).items()}
    assert {k: row["eval_key"] for k, row in found.items()} == expected
    assert 20 < len(expected) < 80
    assert not kept(tmp_path / "run") & set(expected)


def test_what_resembles_only_a_dropped_picture_is_kept(tmp_path):
    """a is near the evaluation picture, b near a, but b not near the evaluation picture."""
    angles = np.deg2rad([20, 40, 43, 120])  # a, b, c and a stranger; the evaluation picture at 0
    train = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    clip_retrieval(tmp_path / "t", 0, train, image_path=["a", "b", "c", "d"], width=[9, 8, 7, 6])
    clip_retrieval(tmp_path / "v", 0, np.array([[1, 0]], np.float32), image_path=["e"])
    run_vectors(tmp_path / "run", tmp_path / "t", tmp_path / "v", threshold=0.9)
    assert set(listed(tmp_path / "run")) == {"a"}
    assert len(kept(tmp_path / "run") & {"b", "c"}) == 1 and "d" in kept(tmp_path / "run")
    sizes = {row["group_size"] for row in rows(tmp_path / "run/duplicates.parquet")}
    assert sizes == {1, 3}  # the group is still shown whole


def test_an_exact_copy_of_a_contaminated_picture_is_contaminated(tmp_path):
    """Its vector may have been made otherwise; the file is the same."""
    train = np.eye(3, dtype=np.float32)
    digests = ["aa" * 32, "aa" * 32, "bb" * 32]
    clip_retrieval(tmp_path / "t", 0, train, image_path=["a", "b", "c"], sha256=digests)
    clip_retrieval(tmp_path / "v", 0, train[:1], image_path=["e"])
    run_vectors(tmp_path / "run", tmp_path / "t", tmp_path / "v")
    assert set(listed(tmp_path / "run")) == {"a", "b"}
    assert kept(tmp_path / "run") == {"c"}


def test_equal_keys_and_even_equal_ids_in_both_sets_are_different_pictures(tmp_path):
    both = planted(20)
    clip_retrieval(tmp_path / "t", 0, both[:10])
    clip_retrieval(tmp_path / "v", 0, both[10:])  # the same file names, keys and dataset name
    run_vectors(tmp_path / "val", tmp_path / "v")
    run_vectors(tmp_path / "run", tmp_path / "t", tmp_path / "val")
    assert keys_of(tmp_path / "run") == keys_of(tmp_path / "val")
    assert listed(tmp_path / "run") == {} and len(kept(tmp_path / "run")) == 10


def test_of_several_sets_the_nearest_picture_is_named(tmp_path):
    vectors = planted(6, 8)
    moved = vectors[:1] + 0.05 * vectors[1:2]
    clip_retrieval(tmp_path / "t", 0, vectors[:4])
    clip_retrieval(tmp_path / "far", 0, moved)
    clip_retrieval(tmp_path / "near", 0, vectors[:1])
    clip_retrieval(tmp_path / "also", 0, vectors[:1])
    sets = [tmp_path / name for name in ("far", "near", "also")]
    run_vectors(tmp_path / "run", tmp_path / "t", *sets)
    (row,) = listed(tmp_path / "run").values()
    assert row["eval_dataset"] == "also" and row["similarity"] == 1


def test_vectors_of_another_width_are_refused(tmp_path):
    clip_retrieval(tmp_path / "t", 0, planted(4, 8))
    clip_retrieval(tmp_path / "v", 0, planted(4, 9))
    with pytest.raises(Exception, match=r"against/00000 failed"):
        run_vectors(tmp_path / "run", tmp_path / "t", tmp_path / "v")
    log = (tmp_path / "run/receipts/against/00000.failed.json").read_text()
    assert "vectors of given are 9 wide, the training set's 8" in log


def test_without_the_option_nothing_of_an_earlier_run_stays(tmp_path):
    vectors = planted(6, 8)
    clip_retrieval(tmp_path / "t", 0, vectors)
    clip_retrieval(tmp_path / "v", 0, vectors[:2])
    run_vectors(tmp_path / "run", tmp_path / "t", tmp_path / "v")
    assert len(kept(tmp_path / "run")) == 4
    run_vectors(tmp_path / "run", tmp_path / "t")
    assert len(kept(tmp_path / "run")) == 6
    assert not (tmp_path / "run/export/contaminated.parquet").exists()
    run_vectors(tmp_path / "run", tmp_path / "t", tmp_path / "v")
    assert len(kept(tmp_path / "run")) == 4


def test_a_limit_is_of_training_rows_only(tmp_path):
    vectors = planted(6, 8)
    clip_retrieval(tmp_path / "t", 0, vectors)
    clip_retrieval(tmp_path / "v", 0, vectors[::-1].copy())
    summary = run_vectors(tmp_path / "run", tmp_path / "t", tmp_path / "v", limit=2)
    assert summary.rows["against"] == (2, 2) and summary.rows["against v ingest"] == (6, 6)
    assert len(listed(tmp_path / "run")) == 2


def test_a_run_that_leaves_the_stage_out_does_not_pass_as_clean(tmp_path):
    clip_retrieval(tmp_path / "t", 0, planted(4, 8))
    values = {
        "dataset": {"shards": [str(tmp_path / "t")], "embeddings": True},
        "against": [str(tmp_path / "t")],
        "pairs": {"min_similarity": {"given": 0.9}},
    }
    stages = tuple(stage for stage in DEDUP if stage.name != "against")
    with pytest.raises(MissingInput, match="run the stage against before groups"):
        run_job(Job(make_config(values), tmp_path / "run", stages), SilentProgress())
