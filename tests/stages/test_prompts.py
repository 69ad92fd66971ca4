"""Which captions are audited, on groups made by hand."""

from collections import Counter

import pytest

from pipeline.config import make_config
from pipeline.errors import MissingInput
from pipeline.ids import prompt_id
from pipeline.io import schemas
from pipeline.io.runfolder import DUPLICATES, PROMPTS
from pipeline.io.tables import read_rows, write_rows
from pipeline.runner.part import Context
from pipeline.stages import prompts

GROUPS = {
    1: ["sun"] * 3,
    2: ["moon", "moon", "star"],
    3: ["sea", "sea", "sea", "sea", "wave", "tide", "surf"],
    4: ["tree"],
    5: ["leaf"],
    6: [""],
    7: ["", ""],
    8: ["twin"],
    9: ["twin"],
}


def _write(run, groups=GROUPS):
    duplicates, images = [], []
    image_id = 0
    for group, captions in groups.items():
        for caption in captions:
            image_id += 1
            duplicates.append(
                {"image_id": image_id, "group_id": group, "group_size": len(captions)}
                | {"keep": True, "reason": "unique", "representative_id": image_id}
                | {"similarity_to_representative": 1.0}
            )
            images.append(
                {"image_id": image_id, "dataset": "d", "shard": "0", "key": str(image_id)}
                | {"caption": caption, "status": "ok", "reason": "", "detail": ""}
            )
    write_rows(run / DUPLICATES, duplicates, schemas.DUPLICATES)
    write_rows(run / "images/part-00000.parquet", images, schemas.IMAGES)


def _prompts(run, **sections):
    context = Context(run, make_config(sections))
    for part in prompts.STAGE.plan(context):
        prompts.STAGE.run(part, context)
    return read_rows(run / PROMPTS, schemas.PROMPTS)


def test_largest_groups_first_then_the_least_diverse(tmp_path):
    _write(tmp_path)
    rows = _prompts(tmp_path, prompts={"controls": 0})
    assert [(row["group_id"], row["caption"]) for row in rows] == [
        (3, "sea"),
        (3, "surf"),
        (3, "tide"),
        (1, "sun"),
        (2, "moon"),
        (2, "star"),
    ]
    assert [row["rank"] for row in rows] == list(range(6))


def test_counts_are_of_the_group_and_of_the_caption(tmp_path):
    _write(tmp_path)
    rows = {row["caption"]: row for row in _prompts(tmp_path)}
    sea = rows["sea"]
    assert (sea["n_duplicates"], sea["n_caption_copies"], sea["n_captions"]) == (7, 4, 4)
    assert sea["prompt_id"] == prompt_id("sea")


def test_controls_are_captions_of_one_picture_only(tmp_path):
    _write(tmp_path)
    rows = _prompts(tmp_path)
    assert {row["caption"] for row in rows if row["role"] == "control"} == {"tree", "leaf"}


def test_controls_do_not_depend_on_the_order_of_groups(tmp_path):
    many = {i: [f"caption {i}"] for i in range(1, 60)}
    chosen = []
    for name, groups in (("a", many), ("b", dict(reversed(many.items())))):
        _write(tmp_path / name, groups)
        rows = _prompts(tmp_path / name, prompts={"controls": 7})
        chosen.append([row["caption"] for row in rows])
    assert chosen[0] == chosen[1] and len(chosen[0]) == 7


def test_a_file_replaces_the_groups_captions(tmp_path):
    _write(tmp_path)
    file = tmp_path / "mine.txt"
    file.write_text("moon\nsomething else\n")
    rows = _prompts(tmp_path, prompts={"file": str(file)})
    assert [(row["caption"], row["group_id"]) for row in rows] == [
        ("moon", 2),
        ("something else", None),
    ]


def test_a_caption_in_two_groups_is_two_rows(tmp_path):
    _write(tmp_path, {1: ["sun", "sun"], 2: ["sun", "sun", "sun"]})
    rows = _prompts(tmp_path)
    assert Counter(row["prompt_id"] for row in rows) == {prompt_id("sun"): 2}


def test_missing_file(tmp_path):
    _write(tmp_path)
    with pytest.raises(MissingInput, match="no such prompt file"):
        _prompts(tmp_path, prompts={"file": str(tmp_path / "nowhere.txt")})
