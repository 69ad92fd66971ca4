"""audit --images: a rights-holder's list, from the command line."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_runner import call, rows
from PIL import Image
from shard_builder import ShardBuilder, jpeg, picture
from tiny_model import build_tiny_pipeline

SETS = ("--set", "match.compare_px=32")


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A training set of 12 pictures, number 1 three times; a folder of pictures that show some."""
    root = tmp_path_factory.mktemp("asked")
    first = ShardBuilder(root / "shards/00000.tar")
    for number in range(8):
        first.add(f"p{number}", jpeg(picture(number)), f"picture {number}")
    first.add("silent", jpeg(picture(60)), "")
    first.write()
    second = ShardBuilder(root / "shards/00001.tar")
    for number in range(2):
        second.add(f"c{number}", jpeg(picture(1), 70 + number), "picture one again")
    second.add("p2", jpeg(picture(61)), "another of that key", url="https://example.org/p3.jpg")
    second.write()
    code, said = call("dedup", root / "shards", "--out", root / "run", *SETS)
    assert code == 0, said
    drawn = root / "drawn"
    drawn.mkdir()
    for number in range(4):
        (drawn / f"one{number}.png").write_bytes(png(picture(1, 96 + number)))
        (drawn / f"one{number}.txt").write_text("picture one again")
        (drawn / f"other{number}.png").write_bytes(png(picture(100 + number)))
        (drawn / f"other{number}.txt").write_text("picture 5")
    (drawn / "alone.png").write_bytes(png(picture(60)))
    return root


def ask(root: Path, asked: Path, out: Path, *more: object) -> tuple[int, str, list[dict]]:
    given = ["--generations", root / "drawn", "--train", root / "run", "--images", asked]
    code, said = call("audit", *given, "--out", out, *SETS, *more)
    found = rows(out / "images_asked.parquet") if code in (0, 2) else []
    return code, said, found


def uid(key: str) -> str:
    return f"{int(key, 36):032x}"


def test_each_kind_of_name_finds_its_group(root, tmp_path):
    lines = [uid("p1"), "https://example.org/p5.jpg", "00000/p4", "c1", "silent", ""]
    lines += ["no such thing", "p1", "p1", "p2", "https://example.org/p3.jpg"]
    (tmp_path / "asked.txt").write_text("\n".join(lines) + "\n")
    code, said, found = ask(root, tmp_path / "asked.txt", tmp_path / "run")
    assert code == 2, said  # more is rejected than 5 %
    by_row: dict[int, list[dict]] = {}
    for row in found:
        by_row.setdefault(row["row"], []).append(row)
    assert sorted(by_row) == list(range(1, 12))
    memorized = by_row[1][0]
    assert (memorized["how"], memorized["found"], memorized["verdict"]) == ("uid", True, "verbatim")
    assert memorized["captions"] == ["picture one again"]
    assert (memorized["n_generated"], memorized["n_hits"], memorized["n_duplicates"]) == (4, 4, 3)
    assert memorized["tiled_l2"] < 0.1 and memorized["generation_id"] is not None
    assert by_row[4][0]["group_id"] == memorized["group_id"] == by_row[8][0]["group_id"]
    drawn = by_row[2][0]
    assert (drawn["how"], drawn["verdict"], drawn["n_hits"]) == ("url", "none", 0)
    assert drawn["n_generated"] == 4 and 0.3 < drawn["ci_high"] < 0.6
    assert by_row[3][0]["verdict"] is None  # its caption was not drawn
    alone = by_row[5][0]  # a sample without a caption shows it
    assert (alone["verdict"], alone["n_hits_elsewhere"], alone["rate"]) == ("verbatim", 1, None)
    reasons = {number: by_row[number][0]["reason"] for number in (6, 7, 9)}
    assert reasons == {6: "empty", 7: "unknown", 9: "repeated"}
    assert len(by_row[10]) == 2 == len(by_row[11])  # a key and a url of two pictures
    assert "11 images" not in said and "1 rejected as unknown" in " ".join(said.split())
    page = (tmp_path / "run/report/index.html").read_text()
    assert "The images asked about" in page and "picture one again" in page
    assert "Rejected" in page


def test_a_picture_file_is_found_by_bytes_and_by_what_it_shows(root, tmp_path):
    files = tmp_path / "mine"
    files.mkdir()
    (files / "same.jpg").write_bytes(jpeg(picture(6)))
    (files / "resized.png").write_bytes(png(picture(1).resize((200, 150))))
    (files / "stranger.png").write_bytes(png(picture(300)))
    (files / "cut.png").write_bytes(png(picture(6))[: len(png(picture(6))) // 2])
    (files / "white.png").write_bytes(png(Image.new("RGB", (50, 50), "white")))
    with (files / "huge.png").open("wb") as file:
        file.truncate(1 << 40)  # without a block on the disk; to read it would take an hour
    names = ["same.jpg", "resized.png", "stranger.png", "cut.png", "white.png", "nowhere.png"]
    names += ["huge.png"]
    pq.write_table(pa.table({"file_name": names, "n": range(7)}), files / "list.parquet")
    code, said, found = ask(root, files / "list.parquet", tmp_path / "run")
    assert code == 2, said
    by_name = {row["asked"]: row for row in found}
    assert by_name["same.jpg"]["how"] == "bytes" and by_name["same.jpg"]["found"]
    resized = by_name["resized.png"]
    assert (resized["how"], resized["verdict"]) == ("pixels", "verbatim")
    assert resized["asked_tiled_l2"] < 0.1
    stranger = by_name["stranger.png"]
    assert (stranger["status"], stranger["found"], stranger["image_id"]) == ("ok", False, None)
    assert stranger["detail"] == "not in the training set" and stranger["asked_l2"] > 0.15
    reasons = {name: row["reason"] for name, row in by_name.items() if row["reason"]}
    assert reasons == {
        "cut.png": "truncated",
        "white.png": "blank",
        "nowhere.png": "no_such_file",
        "huge.png": "too_many_bytes",
    }
    summary = json.loads((tmp_path / "run/report/summary.json").read_text())["asked"]
    assert (summary["rows"], summary["not_in_set"]) == (7, 1)


def test_a_column_says_what_is_meant_and_redaction_hides_it(root, tmp_path):
    path = tmp_path / "asked.jsonl"
    lines = [{"uid": uid("p1")}, {"uid": "p1"}, {"uid": ""}, {"uid": 7}, [1], {"uid": "\ud800"}]
    path.write_text("\n".join([*map(json.dumps, lines), "{oops"]))
    code, said, found = ask(root, path, tmp_path / "run", "--redact")
    assert code == 2, said
    reasons = [row["reason"] for row in found]
    assert reasons == ["", "unknown_uid", "empty", "unknown_uid", "not_text", "empty", "not_json"]
    page = (tmp_path / "run/report/index.html").read_text()
    assert uid("p1") not in page and "one again" not in page and "sha256:" in page


def test_the_captions_of_the_asked_groups_are_drawn(root, tmp_path):
    (tmp_path / "asked.csv").write_text(f"url,uid\nx,{uid('p1')}\n,{uid('p7')}\nx,{uid('silent')}")
    model = build_tiny_pipeline(tmp_path / "model")
    sets = ["generate.per_prompt=2", "generate.steps=3", "screen.seeds=1", "prompts.controls=2"]
    flags = [item for value in sets for item in ("--set", value)]
    given = ["--model", model, "--train", root / "run", "--images", tmp_path / "asked.csv"]
    code, said = call("audit", *given, "--out", tmp_path / "run", *SETS, *flags)
    assert code == 0, said
    prompts = rows(tmp_path / "run/prompts.parquet")
    targets = {row["caption"] for row in prompts if row["role"] == "target"}
    assert targets == {"picture 1", "picture one again", "picture 7"}
    controls = {row["caption"] for row in prompts if row["role"] == "control"}
    assert len(controls) == 2 and not controls & targets
    answers = {row["row"]: row for row in rows(tmp_path / "run/images_asked.parquet")}
    assert (answers[1]["n_captions"], answers[1]["n_generated"]) == (2, 4)
    assert answers[2]["verdict"] == "none" and answers[3]["verdict"] is None


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "who,what\nx,y\n", "no column uid, image_id, url, key, path; found who, what"),
        ("a.txt", "\n\n", "no image is named"),
        ("a.parquet", "x", "not a sound Parquet file"),
        (None, "", "no such file"),
    ],
)
def test_lists_that_name_nothing(root, tmp_path, name, text, says):
    path = tmp_path / (name or "nowhere.csv")
    if name:
        path.write_text(text)
    code, said, _ = ask(root, path, tmp_path / "run")
    assert code == 1 and says in " ".join(said.split())


def test_images_need_a_training_set_and_bring_their_captions(root, tmp_path):
    code, said = call("audit", "--model", "m", "--images", "x", "--out", tmp_path / "run")
    assert code == 1 and "--images needs --train" in said
    more = ["--train", root / "run", "--prompts", "p", "--out", tmp_path / "run"]
    code, said = call("audit", "--model", "m", "--images", "x", *more)
    assert code == 1 and "leave --prompts out" in said
