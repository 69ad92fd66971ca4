"""Prompt lists in the formats that users bring."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_builder import ShardBuilder, jpeg, picture

from pipeline.errors import InputError, MissingInput, ShardCorrupt
from pipeline.io.prompt_files import read_prompts

CAPTIONS = ["Ann Graham Lotz", 'A "quoted"; caption, with marks', "cafe\u0301 at night"]
EXPECTED = ("Ann Graham Lotz", 'A "quoted"; caption, with marks', "caf\u00e9 at night")


def reasons(path: Path, **more) -> list[tuple[int, str]]:
    found = read_prompts(path, **more)
    assert found.rows == len(found.captions) + len(found.rejected)
    return [(row.row, row.reason) for row in found.rejected]


def test_semicolon_csv_with_other_columns(tmp_path):
    """As the list of memorized LAION captions has it."""
    path = tmp_path / "prompts.csv"
    lines = [f'{i};"{c.replace(chr(34), chr(34) * 2)}";u;VM;0.8' for i, c in enumerate(CAPTIONS)]
    path.write_text("\n".join([";Caption;URL;type;mean_sscd", *lines]), encoding="utf-8-sig")
    assert read_prompts(path).captions == EXPECTED


def test_jsonl(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": c, "overfit_type": "TV"}) for c in CAPTIONS]
    path.write_text("\n".join([*lines, "", lines[0]]))
    assert read_prompts(path).captions == EXPECTED
    assert reasons(path) == [(4, "repeated_caption")]


def test_parquet_as_laion_has_it(tmp_path):
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"URL": ["u"] * 4, "TEXT": [*CAPTIONS, None]}), path)
    assert read_prompts(path).captions == EXPECTED
    assert reasons(path) == [(4, "empty")]


def test_plain_text(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(CAPTIONS) + "\n", encoding="utf-8")
    assert read_prompts(path).captions == EXPECTED
    assert reasons(path) == [(2, "empty"), (4, "empty")]


def test_a_json_array_of_captions(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([*CAPTIONS, 7, None, {"caption": "x"}]))
    assert read_prompts(path).captions[:3] == EXPECTED


def test_the_name_of_the_column_may_be_of_any_case_and_caption_comes_first(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("TEXT,Caption\nno,yes\n")
    assert read_prompts(path).captions == ("yes",)


def test_hostile_rows_are_rejected_one_by_one(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = ['{"caption": "good"}', '{"caption": "  "}', '{"caption": 7}', "{oops", "[" * 100_000]
    lines += ['{"caption": "half \\ud800"}', '{"caption": "nul \\u0000"}', '{"other": "x"}']
    lines += [json.dumps({"caption": "x" * 2_000_000}), '{"caption": "\\u001b[31mred"}']
    lines += ['"a caption alone"']
    path.write_text("\n".join(lines))
    found = read_prompts(path)
    assert found.captions == ("good", "\x1b[31mred", "a caption alone")
    assert reasons(path) == [
        (2, "empty"),
        (3, "not_text"),
        (4, "not_json"),
        (5, "not_json"),
        (6, "not_text"),
        (7, "not_text"),
        (8, "empty"),
        (9, "too_long"),
    ]
    assert all(len(row.detail.encode()) <= 1000 for row in found.rejected)


def test_a_huge_field_of_a_csv_is_one_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("caption\n" + "x" * 3_000_000 + "\nfine\n")
    assert reasons(path) == [(1, "too_long")]
    assert read_prompts(path).captions == ("fine",)


def test_the_longest_caption_is_configured(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("12345\n123456")
    assert reasons(path, max_chars=5) == [(2, "too_long")]


def test_captions_of_shards(tmp_path):
    first = ShardBuilder(tmp_path / "s/00000.tar").add("a", jpeg(picture(1)), "from the Parquet")
    first.rows.append({"key": "gone", "status": "failed_to_download", "caption": "never there"})
    first.write()
    second = ShardBuilder(tmp_path / "s/00001.tar").add("b", jpeg(picture(2)), "from the text")
    second.members += [("c.png", b"x"), ("d.jpg", b""), ("d.json", b'{"caption": "of json"}')]
    second.write(metadata=False)
    expected = ("from the Parquet", "from the text", "of json")
    assert read_prompts(tmp_path / "s").captions == expected
    assert read_prompts(tmp_path / "s/0000{0..1}.tar").captions == expected
    assert reasons(tmp_path / "s") == [(3, "empty")]
    data = (tmp_path / "s/00001.tar").read_bytes()
    (tmp_path / "s/00001.tar").write_bytes(data[:2000])
    with pytest.raises(ShardCorrupt, match=r"bytes of data expected|header"):
        read_prompts(tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", b"url,type\nu,VM\n", "no column caption or prompt or text; found url, type"),
        ("a.csv", b'caption\none\n"two\nthree\nfour', "quote that opens in row 2 is never closed"),
        ("a.jsonl", b"{oops\n{}\n", "no captions"),
        ("a.json", b"[1, 2", "not a JSON array"),
        ("a.txt", b"\n\n", "no captions"),
        ("a.txt", b"", "no captions"),
        ("a.csv", b"", "no captions"),
        ("a.csv", b"caption\n", "no captions"),
        ("a.txt", b"\xff\xfe\x00", "utf-8"),
        ("a.parquet", b"PAR1", "not a sound Parquet file"),
    ],
)
def test_mistakes_are_named(tmp_path, name, data, says):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=says):
        read_prompts(path)


def test_missing_file(tmp_path):
    with pytest.raises(MissingInput, match="no such prompt file"):
        read_prompts(tmp_path / "nowhere.csv")
