"""match: single files, under the caps that the training set was read by."""

from pathlib import Path

import pytest
from cli_runner import call
from shard_builder import ShardBuilder, jpeg, picture

CAP = 200 * 200


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("matching")
    builder = ShardBuilder(root / "shards/00000.tar")
    for number in range(4):
        builder.add(f"p{number}", jpeg(picture(number)), f"picture {number}")
    builder.write()
    sets = ("--set", "match.compare_px=32", "--set", f"scan.max_pixels={CAP}")
    code, said = call("dedup", root / "shards", "--out", root / "run", *sets)
    assert code == 0, said
    return root / "run"


def test_a_picture_beyond_the_cap_of_the_training_set_is_not_decoded(train, tmp_path):
    for name, side in (("small", 200), ("large", 201)):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(picture(1).resize((side, side))))
    code, said = call("match", tmp_path / "small.jpg", tmp_path / "large.jpg", "--train", train)
    small, large = said.splitlines()
    assert code == 0 and "nearest 00000/p1" in small
    assert f"rejected (too_many_pixels: 201 x 201, at most {CAP} pixels)" in large


def test_a_file_too_large_for_a_picture_is_refused_unread(train, tmp_path):
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(1 << 40)  # without a block on the disk; to read it would take an hour
    code, said = call("match", tmp_path / "huge.jpg", "--train", train)
    assert code == 0 and "rejected (too_many_bytes: 1099511627776 bytes, at most" in said
