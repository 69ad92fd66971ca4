"""What a person who has the wrong thing meets at `dedup`: the exit code, and the line."""

import hashlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_builder import ShardBuilder, jpeg, picture
from vector_builder import clip_retrieval, parquet, planted

from pipeline import cli
from pipeline.config import make_config
from pipeline.errors import ShardCorrupt
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.part import Context
from pipeline.runner.progress import SilentProgress
from pipeline.stages import embed, export


@pytest.fixture
def dedup(tmp_path, monkeypatch, capsys):
    """Call the command; give back its exit code and all that it said, on one line."""

    def call(*arguments: object, out: object = "run") -> tuple[int, str]:
        command = ["unmemorize", "dedup", *map(str, arguments), "--out", str(tmp_path / str(out))]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), " ".join((said.out + said.err).split())

    return call


def shards(folder: Path, n: int = 3, *, first: int = 0, **row: object) -> Path:
    builder = ShardBuilder(folder / "00000.tar")
    for i in range(n):
        builder.add(f"{i:06d}", jpeg(picture(first + i)), f"picture {i}", **row)
    builder.write()
    return folder


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


# Vectors.


def test_nan_infinite_and_zero_vectors_are_rows_with_a_reason(tmp_path, dedup):
    vectors = planted(8, 6)
    vectors[1, 0], vectors[2, 3], vectors[3] = np.nan, -np.inf, 0
    clip_retrieval(tmp_path / "in", 0, vectors)
    code, said = dedup(tmp_path / "in", "--threshold", 0.9)
    assert code == 2
    assert "rejected: 3 no_vector" in said and "ingest: more than 5% of the rows" in said
    details = {r["detail"] for r in rows(tmp_path / "run/images/part-00000.parquet")}
    assert details == {"", "missing, of another length, or not finite", "zero: it has no direction"}


@pytest.mark.parametrize("threshold", ["1.5", "-1", "-2", "nan", "inf"])
def test_a_threshold_that_no_cosine_has(tmp_path, dedup, threshold):
    clip_retrieval(tmp_path / "in", 0, planted(4))
    code, said = dedup(tmp_path / "in", f"--threshold={threshold}")
    assert code == 1 and "pairs.min_similarity.given: Input should be" in said
    code, said = dedup(shards(tmp_path / "shards"), f"--threshold={threshold}")
    assert code == 1 and "pairs.min_similarity.lite0: Input should be" in said
    assert not (tmp_path / "run").exists()


def test_files_that_disagree_or_miss_their_counterpart(tmp_path, dedup):
    for number in ("00", "01"):
        clip_retrieval(tmp_path / "in", number, planted(4))
    pq.write_table(pa.table({"image_path": ["a"]}), tmp_path / "in/metadata/metadata_01.parquet")
    code, said = dedup(tmp_path / "in", "--threshold", 0.9)
    assert code == 1 and "img_emb_01.npy has 4 rows" in said and "metadata_01.parquet 1;" in said
    (tmp_path / "in/metadata/metadata_01.parquet").unlink()
    code, said = dedup(tmp_path / "in", "--threshold", 0.9)
    assert code == 1 and "metadata/metadata_01.parquet is not there" in said
    assert not (tmp_path / "run/images").exists()


def test_damaged_and_executable_vectors(tmp_path, dedup):
    clip_retrieval(tmp_path / "in", 0, planted(4))
    file = tmp_path / "in/img_emb/img_emb_0.npy"
    file.write_bytes(file.read_bytes()[:-5])
    code, said = dedup(tmp_path / "in", "--threshold", 0.9)
    assert code == 1 and "img_emb_0.npy: not a sound npy file" in said
    np.save(file, np.array([{"a": 1}] * 4), allow_pickle=True)
    code, said = dedup(tmp_path / "in", "--threshold", 0.9)
    assert code == 1 and "not a sound npy file" in said and "objects" in said


def test_columns_that_hold_no_vectors(tmp_path, dedup):
    parquet(tmp_path / "a.parquet", [[1, 0]], pa.list_(pa.int64()), id=["a"])
    code, said = dedup(tmp_path / "a.parquet", "--threshold", 0.9)
    assert code == 1 and "vectors are list" in said and "expected lists of float16" in said
    parquet(tmp_path / "b.parquet", [[1.0, 0]], pa.list_(pa.float32()), name="emb", id=["a"])
    code, said = dedup(tmp_path / "b.parquet", "--threshold", 0.9)
    assert code == 1 and "no .tar file there, and no column embedding in b.parquet" in said


def test_a_clip_retrieval_folder_of_twelve_partitions(tmp_path, dedup):
    """Zero-padded numbers, keys with leading zeros, and the folders that come along."""
    for number in range(12):
        keys = [f"{number * 5 + k:09d}" for k in range(5)]
        block = planted(5, seed=number).astype(np.float16)
        clip_retrieval(tmp_path / "in", f"{number:02d}", block, image_path=keys, NSFW=["x"] * 5)
    (tmp_path / "in/text_emb").mkdir()
    np.save(tmp_path / "in/text_emb/text_emb_00.npy", planted(5))
    (tmp_path / "in/stats").mkdir()
    (tmp_path / "in/stats/0.json").write_text("{}")
    code, said = dedup(tmp_path / "in", "--threshold", 0.99)
    assert code == 0 and "60 accepted" in said
    kept = rows(tmp_path / "run/export/keep.parquet")
    assert {row["key"] for row in kept} == {f"{i:09d}" for i in range(60)}
    for inside in ("img_emb", "img_emb/img_emb_00.npy"):
        code, said = dedup(tmp_path / "in" / inside, "--threshold", 0.9)
        assert code == 1 and "give the folder that holds img_emb and metadata" in said


# Data sets.


def test_two_data_sets_with_equal_keys(tmp_path, dedup):
    one, two = shards(tmp_path / "one"), shards(tmp_path / "two", first=50)
    code, said = dedup(one, two)
    assert code == 0 and "6 accepted" in said
    kept = rows(tmp_path / "run/export/keep.parquet")
    assert len({(row["shard"], row["key"]) for row in kept}) == 6
    assert len({row["image_id"] for row in kept}) == 6
    again = shutil.copytree(two, tmp_path / "other/one")
    code, said = dedup(one, again, out="second")
    assert code == 1 and "one-00000: two folders and files are named so" in said


def test_a_uid_that_several_pictures_have(tmp_path, dedup):
    """keep.npy says which uids to keep: one that is kept and dropped cannot be in it."""
    code, said = dedup(shards(tmp_path / "in", uid="ab" * 16))
    assert code == 0
    assert f"uid {'ab' * 16} is that of several pictures; keep.npy and drop.npy" in said
    assert not list((tmp_path / "run/export").glob("*.npy"))
    assert len(rows(tmp_path / "run/export/keep.parquet")) == 3


def test_a_missing_caption_is_no_reason_to_lose_the_picture(tmp_path, dedup):
    folder = shards(tmp_path / "in")
    table = pq.read_table(folder / "00000.parquet")
    nothing = pa.nulls(3, pa.string())
    place = table.column_names.index("caption")
    pq.write_table(table.set_column(place, "caption", nothing), folder / "00000.parquet")
    with tarfile.open(folder / "00000.tar") as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    write_tar(folder / "00000.tar", [m for m in members if not m[0].endswith(".txt")])
    code, said = dedup(folder)
    assert code == 0 and "3 accepted, 0 of 3 rows rejected" in said
    (part,) = (tmp_path / "run/images").glob("part-*.parquet")
    assert [row["caption"] for row in rows(part)] == ["", "", ""]


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("beside", [True, False])
def test_datacomp_with_uids_in_json_and_perhaps_in_parquet(tmp_path, dedup, beside):
    members, table = [], []
    for i in range(5):
        key, uid = f"{i:012d}", hashlib.md5(str(i).encode()).hexdigest()
        row = {"uid": uid, "url": f"https://x/{i}", "key": key, "sha256": "ab" * 32}
        row |= {"clip_b32_similarity_score": 0.3, "face_bboxes": [[0.1, 0.2, 0.3, 0.4]]}
        table.append(row | {"caption": f"c{i}", "status": "success", "error_message": None})
        told = json.dumps(row | {"caption": "half a \ud800 pair", "original_width": 96})
        members += [(f"{key}.jpg", jpeg(picture(i % 4))), (f"{key}.json", told.encode())]
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in/00000000.tar", members)
    if beside:
        pq.write_table(pa.Table.from_pylist(table), tmp_path / "in/00000000.parquet")
    code, said = dedup(tmp_path / "in")
    assert code == 0 and "5 accepted" in said
    kept = rows(tmp_path / "run/export/keep.parquet")
    assert {row["url"] for row in kept} <= {f"https://x/{i}" for i in range(5)}
    subset = np.load(tmp_path / "run/export/keep.npy")
    assert [f"{a:016x}{b:016x}" for a, b in subset] == sorted(row["uid"] for row in kept)
    captions = [r["caption"] for r in rows(tmp_path / "run/images/part-00000.parquet")]
    assert captions == ([f"c{i}" for i in range(5)] if beside else ["half a ? pair"] * 5)


@pytest.mark.parametrize("told", [b"[1, 2]", b"{", b"\xff", b"[" * 100_000, b'{"uid": 7}', b""])
def test_json_that_says_nothing_is_passed_over(tmp_path, dedup, told):
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in/0.tar", [("a.jpg", jpeg(picture(0))), ("a.json", told)])
    code, said = dedup(tmp_path / "in")
    assert code == 0 and "1 accepted" in said
    assert rows(tmp_path / "run/export/keep.parquet")[0]["uid"] is None


@pytest.mark.parametrize("kind", ["files", "parquet"])
def test_what_img2dataset_writes_in_other_formats(tmp_path, dedup, kind):
    folder = tmp_path / "in"
    folder.mkdir()
    row = {"url": "https://x", "key": "000000", "status": "success", "error_message": None}
    if kind == "files":
        (folder / "00000").mkdir()
        (folder / "00000/000000.jpg").write_bytes(jpeg(picture(0)))
    else:
        row["jpg"] = jpeg(picture(0))
    pq.write_table(pa.Table.from_pylist([row]), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text('{"count": 1, "successes": 1}')
    code, said = dedup(folder)
    assert code == 1 and "run it with --output_format webdataset" in said


def test_places_without_shards_say_what_is_there(tmp_path, dedup):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.JPG").write_bytes(jpeg(picture(0)))
    (tmp_path / "empty").mkdir()
    clip_retrieval(tmp_path / "vectors", 0, planted(3))
    for arguments, says in (
        (["pictures"], "no .tar file there, but pictures; pack them into tars"),
        (["empty"], "empty: no .tar file there"),
        (["nowhere"], "nowhere: no .tar file there"),
        (["vectors", shards(tmp_path / "in").name], "but embeddings; give them without any shard"),
    ):
        code, said = dedup(*(tmp_path / name for name in arguments))
        assert code == 1 and said.count("unmemorize:") == 1 and says in said


# What changes, and what is not ours.


def test_a_shard_that_changed_since_the_last_run(tmp_path, dedup):
    assert dedup(shards(tmp_path / "in"))[0] == 0
    shards(tmp_path / "in", n=4, first=20)
    code, said = dedup(tmp_path / "in")
    assert code == 1 and "scan/00000: inputs" in said and "pass --rebuild" in said
    code, said = dedup(tmp_path / "in", "--rebuild")
    assert code == 0 and "4 accepted" in said


def test_a_shard_that_changes_between_stages(tmp_path):
    """Same keys, other pictures: neither embedded nor exported as if they were those scanned."""
    encoders = {"encoders": {"pdq": {"kind": "pdq"}}}
    pairs = {"min_similarity": {}}
    values = {"embed": encoders, "pairs": pairs, "match": {"encoders": []}}
    values["dataset"] = {"shards": [str(shards(tmp_path / "in"))]}
    config = make_config(values)
    run_job(Job(config, tmp_path / "run", DEDUP), SilentProgress())
    shards(tmp_path / "in", n=2, first=30)
    context = Context(tmp_path / "run", config)
    (part,) = embed.plan(context)
    outcome = embed.run(part, context)
    assert (outcome.rows_out, dict(outcome.rejected)) == (0, {"undecodable": 3})
    rejected = rows(tmp_path / "run/embeddings/pdq/rejected/rejected_00000.parquet")
    assert sorted(row["reason"] for row in rejected) == ["changed", "changed", "missing_in_tar"]
    (_, part) = export.plan(context)
    with pytest.raises(ShardCorrupt, match="000000 is not the picture that was scanned"):
        export.run(part, context)
    shards(tmp_path / "in", n=2)
    with pytest.raises(ShardCorrupt, match="000002 was scanned and is gone"):
        export.run(part, context)


def test_an_output_folder_of_somebody_else_is_left_as_it_is(tmp_path, dedup):
    folder = shards(tmp_path / "in")
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    for name, data in (("other.txt", "x"), ("run.json", "{}"), ("run.json", "[" * 10_000)):
        (mine / name).write_text(data)
        before = {path.name: path.read_bytes() for path in mine.iterdir()}
        code, said = dedup(folder, out="thesis")
        assert code == 1 and "not empty and not a run of ours; give another --out" in said
        assert {path.name: path.read_bytes() for path in mine.iterdir()} == before
    for place in ("thesis/thesis.tex", "thesis/thesis.tex/below"):
        code, said = dedup(folder, out=place)
        assert code == 1 and "thesis.tex: a file, not a folder; give another --out" in said
    code, said = dedup(folder, out="in")
    assert code == 1 and "not empty" in said


def test_files_of_somebody_else_in_a_run_folder_are_kept(tmp_path, dedup):
    assert dedup(shards(tmp_path / "in"))[0] == 0
    own = [tmp_path / "run" / name for name in ("note.txt", "images/holiday.jpg", "export/my.txt")]
    for path in own:
        path.write_text("mine")
    shards(tmp_path / "in", first=9)
    assert dedup(tmp_path / "in", "--rebuild")[0] == 0
    assert all(path.read_text() == "mine" for path in own)


def test_vectors_of_another_encoder(tmp_path, dedup):
    """An evaluation set of another width, and a run without the encoder that is compared."""
    clip_retrieval(tmp_path / "eval", 0, planted(4, 6))
    assert dedup(tmp_path / "eval", "--threshold", 0.9, out="eval_run")[0] == 0
    clip_retrieval(tmp_path / "in", 0, planted(4, 8))
    against = ["--against", tmp_path / "eval_run"]
    code, said = dedup(tmp_path / "in", "--threshold", 0.9, *against)
    assert code == 3 and "6 wide, the training set's 8; not of one encoder" in said
    code, said = dedup(shards(tmp_path / "shards"), *against, out="second")
    assert code == 1 and "embedded without lite0 or with other settings of it" in said
    clip_retrieval(tmp_path / "in", 1, planted(4, 9))
    code, said = dedup(tmp_path / "in", "--threshold", 0.9, out="third")
    assert code == 3 and "img_emb_00000.npy is 8 wide" in said and "not of one encoder" in said


def test_an_index_that_another_encoder_made_is_built_again_not_searched(tmp_path, dedup):
    folder = shards(tmp_path / "in")
    assert dedup(folder)[0] == 0
    path = tmp_path / "run/index/lite0/index.json"
    made = path.read_bytes()
    path.write_text(json.dumps(json.loads(made) | {"fingerprint": "another encoder"}))
    code, said = dedup(folder)
    assert code == 0 and "index/lite0: an output is gone or changed; redone" in said
    assert path.read_bytes() == made
