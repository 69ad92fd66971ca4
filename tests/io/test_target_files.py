import numpy as np
import pytest

from pipeline.errors import InputError, MissingInput
from pipeline.io.images import encode_png
from pipeline.io.target_files import Named, read_targets


def listed(folder, text, name="targets.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_captions_of_one_picture_are_one_target(tmp_path):
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    path = listed(tmp_path, "Caption,image\na cat,a.png\na dog,\nthe cat,a.png\na cat,a.png\n")
    assert read_targets(path) == [
        Named(("a cat", "the cat"), (tmp_path / "a.png").resolve()),
        Named(("a dog",)),
    ]


def test_a_text_is_a_caption_a_line(tmp_path):
    path = listed(tmp_path, "a cat\n\n  a dog \n", "targets.txt")
    assert read_targets(path) == [Named(("a cat",)), Named(("a dog",))]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("caption,image\na,missing.png\n", "row 1: no picture missing.png"),
        ("caption,image\nfine,\n ,x.png\n", "row 2: a caption"),
        (f"caption\n{'x' * 5000}\n", "row 1: a caption of 1 to 4,096"),
        ("caption\n", "nothing to erase"),
        ("name\nx\n", "no column caption"),
    ],
)
def test_no_row_is_left_out_in_silence(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read_targets(listed(tmp_path, text))


def test_no_file(tmp_path):
    with pytest.raises(MissingInput):
        read_targets(tmp_path / "none.csv")
