import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import MissingInput, SchemaMismatch, ShardCorrupt
from pipeline.io.tables import (
    WRITER_KEY,
    read_foreign,
    read_parts,
    read_rows,
    read_table,
    table_from_columns,
    table_from_rows,
    write_rows,
    write_table,
)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=True),
        pa.field("score", pa.float64(), nullable=True),
        pa.field("ids", pa.list_(pa.int64()), nullable=False),
    ]
)
ROW = {"id": 1, "caption": "a cat", "width": 3, "score": 0.5, "ids": [2**62, -1]}


def rows(n=200):
    return [ROW | {"id": i, "caption": f"caption {i} é\U0001f600"} for i in range(n)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "part-00000.parquet"


def test_rows_come_back(path):
    assert write_rows(path, rows(), SCHEMA) == 200
    assert read_rows(path, SCHEMA) == rows()
    assert read_table(path, SCHEMA).schema.equals(SCHEMA)


def test_no_rows(path):
    assert write_rows(path, [], SCHEMA) == 0
    assert read_table(path, SCHEMA).schema.equals(SCHEMA)


def test_missing_values_stay_apart_from_nan(path):
    write_rows(
        path, [ROW | {"score": None}, ROW | {"score": math.nan}, {**ROW, "width": None}], SCHEMA
    )
    scores = [row["score"] for row in read_rows(path, SCHEMA)]
    assert scores[0] is None
    assert math.isnan(scores[1])


def test_a_column_absent_in_a_row_is_null():
    short = {name: ROW[name] for name in ("id", "caption", "ids")}
    assert table_from_rows([short], SCHEMA).to_pylist() == [short | {"width": None, "score": None}]


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"caption": None},
        {"id": "7"},
        {"id": 2**63},
        {"id": True},
        {"width": 2**40},
        {"width": math.nan},
        {"caption": 7},
        {"caption": "\udc80"},
        {"score": "high"},
        {"ids": 3},
        {"id": object()},
        {"extra": 1},
    ],
)
def test_a_value_that_does_not_fit_its_column(change):
    with pytest.raises(SchemaMismatch) as caught:
        table_from_rows([ROW, ROW | change], SCHEMA)
    assert "\n" not in str(caught.value)


def test_columns_must_be_complete_and_of_one_length():
    columns = {name: [value] for name, value in ROW.items()}
    assert table_from_columns(columns, SCHEMA).to_pylist() == [ROW]
    with pytest.raises(SchemaMismatch, match="caption"):
        table_from_columns({"id": [1]}, SCHEMA)
    with pytest.raises(SchemaMismatch, match="length"):
        table_from_columns(columns | {"id": [1, 2]}, SCHEMA)


def test_numpy_columns_and_a_lossy_one():
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False)])
    assert table_from_columns({"id": np.arange(3)}, schema)["id"].to_pylist() == [0, 1, 2]
    with pytest.raises(SchemaMismatch, match="truncated"):
        table_from_columns({"id": np.array([0.5])}, schema)


def test_the_same_rows_are_the_same_bytes(path, tmp_path):
    write_rows(path, rows(), SCHEMA)
    write_rows(tmp_path / "again.parquet", rows(), SCHEMA)
    assert path.read_bytes() == (tmp_path / "again.parquet").read_bytes()


def test_the_writer_is_named_and_the_caller_s_columns_are_kept(path):
    write_table(path, pa.table({"own": [1, 2]}, metadata={b"secret": b"not ours"}))
    metadata = pq.read_schema(path).metadata
    assert metadata[WRITER_KEY].startswith(b"unmemorize ")
    assert b"secret" not in metadata
    assert pq.read_table(path).column_names == ["own"]


def test_every_byte_of_every_page_is_checked(path):
    """Without checksums a flipped byte is read as another value, without a word."""
    write_rows(path, rows(50), SCHEMA)
    sound = path.read_bytes()
    group = pq.read_metadata(path).row_group(0)
    for column in range(group.num_columns):
        chunk = group.column(column)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        for at in range(start, start + chunk.total_compressed_size):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x10]) + sound[at + 1 :])
            try:
                same = read_rows(path, SCHEMA) == rows(50)
            except ShardCorrupt:
                continue
            assert same, f"byte {at} was changed and read"  # unused bits of a page's header


def test_damage_anywhere_is_ours_to_name(path):
    """In the footer a flip may also rename a column or its type; it is never another error."""
    write_rows(path, rows(50), SCHEMA)
    sound = path.read_bytes()
    for at in range(len(sound) - 1500, len(sound), 4):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x04]) + sound[at + 1 :])
        try:
            read_table(path, SCHEMA)
        except (ShardCorrupt, SchemaMismatch) as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("kept", [0, 3, 4, 100, -1])
def test_cut_files(path, kept):
    write_rows(path, rows(), SCHEMA)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ShardCorrupt, match=r"part-00000.parquet: not a sound Parquet file"):
        read_table(path, SCHEMA)


def test_a_file_that_is_not_there(path):
    with pytest.raises(MissingInput, match="no such file"):
        read_table(path, SCHEMA)


def test_missing_columns_are_named(path):
    write_rows(path, rows(), SCHEMA)
    wider = SCHEMA.append(pa.field("uid", pa.string())).append(pa.field("url", pa.string()))
    with pytest.raises(SchemaMismatch, match="no column uid, url"):
        read_table(path, wider)
    assert read_table(path, wider, columns=["id"]).column_names == ["id"]


def test_extra_columns_and_other_order_are_no_matter(path):
    write_table(path, table_from_rows(rows(3), SCHEMA).select(SCHEMA.names[::-1]))
    assert read_rows(path, SCHEMA) == rows(3)


def test_nulls_where_none_may_be(path):
    pq.write_table(pa.table({"id": pa.array([1, None], pa.int64())}), path)
    with pytest.raises(SchemaMismatch, match="id"):
        read_table(path, SCHEMA, columns=["id"])


def test_another_type(path):
    pq.write_table(pa.table({"id": [2**40], "width": [2**40]}), path)
    assert read_rows(path, SCHEMA, columns=["id"]) == [{"id": 2**40}]
    with pytest.raises(SchemaMismatch, match="part-00000"):
        read_table(path, SCHEMA, columns=["width"])


def test_a_column_that_is_there_twice(path):
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"])
    pq.write_table(twice, path)
    with pytest.raises(SchemaMismatch):
        read_table(path, SCHEMA, columns=["id"])


def test_foreign_files_give_what_they_have(path):
    pq.write_table(pa.table({"key": ["a"], "NSFW": [0.1]}), path)
    assert read_foreign(path, columns=["key", "uid"]).to_pydict() == {"key": ["a"]}
    assert read_foreign(path).column_names == ["key", "NSFW"]


def test_parts_in_order(tmp_path):
    parts = [tmp_path / "b.parquet", tmp_path / "a.parquet"]
    for i, part in enumerate(parts):
        write_rows(part, [ROW | {"id": i}], SCHEMA)
    assert read_parts(parts, SCHEMA, columns=["id"])["id"].to_pylist() == [0, 1]
    assert read_parts([], SCHEMA).schema.equals(SCHEMA)
