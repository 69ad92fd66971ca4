"""Prompt lists in the formats that users bring."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError, MissingInput
from pipeline.io.prompt_files import read_prompts

CAPTIONS = ["Ann Graham Lotz", 'A "quoted"; caption, with marks', "cafe\u0301 at night"]
EXPECTED = ["Ann Graham Lotz", 'A "quoted"; caption, with marks', "caf\u00e9 at night"]


def test_semicolon_csv_with_other_columns(tmp_path):
    path = tmp_path / "prompts.csv"
    rows = ["url;Caption;type", *(f'u;"{c.replace(chr(34), chr(34) * 2)}";VM' for c in CAPTIONS)]
    path.write_text("\n".join(rows), encoding="utf-8-sig")
    assert read_prompts(path) == EXPECTED


def test_jsonl(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": c, "overfit_type": "TV"}) for c in CAPTIONS]
    path.write_text("\n".join([*lines, "", lines[0]]))
    assert read_prompts(path) == EXPECTED


def test_parquet_as_laion_has_it(tmp_path):
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"URL": ["u"] * 4, "TEXT": [*CAPTIONS, None]}), path)
    assert read_prompts(path) == EXPECTED


def test_plain_text(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(CAPTIONS) + "\n", encoding="utf-8")
    assert read_prompts(path) == EXPECTED


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", b"url,type\nu,VM\n", "no column caption or prompt or text; found url, type"),
        ("a.jsonl", b'{"caption": "x"}\n{oops\n', "line 2: not JSON"),
        ("a.txt", b"\n\n", "no captions"),
        ("a.txt", b"\xff\xfe\x00", "utf-8"),
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
