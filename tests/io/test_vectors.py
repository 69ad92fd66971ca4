"""Embeddings of other tools: which files are found, and what is refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_builder import ShardBuilder, jpeg, picture
from vector_builder import clip_retrieval, parquet, planted

from pipeline.errors import InputError, MissingInput, SchemaMismatch, ShardCorrupt, UsageError
from pipeline.io.vectors import (
    are_vectors,
    count_vectors,
    find_vector_files,
    norms,
    read_rows_of,
    read_vectors,
    write_vectors,
)

LISTS = [
    kind(value)
    for kind in (pa.list_, pa.large_list, lambda value: pa.list_(value, 3))
    for value in (pa.float16(), pa.float32(), pa.float64())
]


def only(path):
    (file,) = find_vector_files([str(path)])
    return file


# Finding them.


def test_pairs_are_matched_by_number_not_by_spelling(tmp_path):
    for number in ("10", "2", "0"):
        clip_retrieval(tmp_path / "clip", number, planted(3))
    (tmp_path / "clip/metadata/metadata_2.parquet").rename(
        tmp_path / "clip/metadata/metadata_02.parquet"
    )
    (tmp_path / "clip/img_emb/notes.txt").touch()
    files = find_vector_files([str(tmp_path / "clip")])
    assert [file.vectors.stem for file in files] == ["img_emb_0", "img_emb_2", "img_emb_10"]
    assert [file.metadata.stem for file in files] == ["metadata_0", "metadata_02", "metadata_10"]
    assert [file.name for file in files] == ["img_emb_0", "img_emb_2", "img_emb_10"]


@pytest.mark.parametrize(
    ("gone", "left"),
    [("img_emb/img_emb_1.npy", "metadata_1"), ("metadata/metadata_1.parquet", "img_emb_1")],
)
def test_a_file_without_its_counterpart_is_refused_by_name(tmp_path, gone, left):
    for number in (0, 1):
        clip_retrieval(tmp_path, number, planted(2))
    (tmp_path / gone).unlink()
    with pytest.raises(InputError, match=rf"{left}.*counterpart .*{gone}"):
        find_vector_files([str(tmp_path)])


def test_two_files_of_one_number_are_refused(tmp_path):
    for number in ("1", "01"):
        clip_retrieval(tmp_path, number, planted(2))
    with pytest.raises(InputError, match="the same number"):
        find_vector_files([str(tmp_path)])


def test_folders_with_equal_file_names_are_told_apart(tmp_path):
    for name in ("a", "b"):
        clip_retrieval(tmp_path / name, 0, planted(2))
    files = find_vector_files([str(tmp_path / "{a,b}")])
    assert [file.name for file in files] == ["a-img_emb_0", "b-img_emb_0"]
    for name in ("x/same", "y/same"):
        clip_retrieval(tmp_path / name, 0, planted(2))
    with pytest.raises(UsageError, match="rename"):
        find_vector_files([str(tmp_path / "*" / "same")])


@pytest.mark.parametrize("pattern", ["", "*.parquet", "{a,b}.parquet"])
def test_parquet_files_are_found_in_order(tmp_path, pattern):
    for name in ("b", "a"):
        parquet(tmp_path / f"{name}.parquet", [[1.0]], pa.list_(pa.float32()), id=["x"])
    files = find_vector_files([str(tmp_path / pattern)])
    assert [file.name for file in files] == ["a", "b"]


def test_an_address_without_vectors_is_named(tmp_path):
    with pytest.raises(MissingInput, match="nothing: no img_emb"):
        find_vector_files([str(tmp_path / "nothing")])
    with pytest.raises(UsageError, match="never read"):
        find_vector_files(["pipe:cat x.parquet"])


def test_a_tar_wins(tmp_path):
    clip_retrieval(tmp_path / "both", 0, planted(2))
    assert are_vectors([str(tmp_path / "both")])
    ShardBuilder(tmp_path / "both" / "0.tar").add("a", jpeg(picture(1)), "a").write()
    assert not are_vectors([str(tmp_path / "both")])
    assert not are_vectors([str(tmp_path / "nothing")])


# Counting and reading them.


def test_files_that_disagree_are_named_with_their_counts(tmp_path):
    clip_retrieval(tmp_path, 0, planted(3), image_path=["a", "b"])
    with pytest.raises(ShardCorrupt, match=r"img_emb_0.npy has 3 rows, .*metadata_0.parquet 2"):
        count_vectors(only(tmp_path))


@pytest.mark.parametrize("columns", [{"caption": ["a", "b"]}, {"ID": ["a", "b"]}])
def test_a_missing_id_column_is_named(tmp_path, columns):
    file = parquet(tmp_path / "a.parquet", [[1.0], [2.0]], pa.list_(pa.float32()), **columns)
    with pytest.raises(SchemaMismatch, match=r"a.parquet: no column id or image_id .*it has"):
        count_vectors(only(file))


def test_a_missing_vector_column_is_named(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "vec": [[1.0]]}), tmp_path / "a.parquet")
    with pytest.raises(SchemaMismatch, match="no column embedding or embeddings; it has id, vec"):
        count_vectors(only(tmp_path))


def test_two_columns_of_one_name_are_refused(tmp_path):
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["id", "id"])
    pq.write_table(twice.append_column("embedding", [[[1.0]]]), tmp_path / "a.parquet")
    with pytest.raises(SchemaMismatch, match="2 columns are named id"):
        count_vectors(only(tmp_path))


def _npy_header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04\x95 a pickle",
        _npy_header("(2, 4)"),  # nothing follows
        _npy_header("(-2, 4)"),
        _npy_header(f"({2**40}, {2**40})"),
        _npy_header("(True, 4)"),
        _npy_header("(2, 4)", "|O") + bytes(64),
        _npy_header("(8,)") + bytes(32),
        _npy_header("(2, 4)", "<i4") + bytes(32),
        _npy_header("(2, 1)", "<f16") + bytes(32),
    ],
)
def test_an_npy_that_is_none_is_one_line(tmp_path, data):
    clip_retrieval(tmp_path, 0, planted(2))
    (tmp_path / "img_emb/img_emb_0.npy").write_bytes(data)
    with pytest.raises(ShardCorrupt, match=r"img_emb_0.npy: (not a sound npy|.*expected float16)"):
        count_vectors(only(tmp_path))


def test_pickled_objects_are_not_loaded(tmp_path):
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return ran.touch, ()

    clip_retrieval(tmp_path, 0, planted(2))
    np.save(tmp_path / "img_emb/img_emb_0.npy", np.array([Trap(), Trap()]), allow_pickle=True)
    with pytest.raises(ShardCorrupt, match="Python objects"):
        count_vectors(only(tmp_path))
    assert not ran.exists()


@pytest.mark.parametrize("kind", LISTS, ids=str)
def test_lists_are_read_in_their_precision(tmp_path, kind):
    values = [[1, 2, 3], None, [4, 5, 6]]
    cast = np.float16 if kind.value_type == pa.float16() else float
    rows = [None if row is None else [cast(v) for v in row] for row in values]
    file = only(parquet(tmp_path / "a.parquet", rows, kind, id=["x", "y", "z"]))
    vectors = read_vectors(file)
    assert count_vectors(file) == 3
    assert vectors.dtype.itemsize * 8 == kind.value_type.bit_width
    np.testing.assert_array_equal(vectors, [[1, 2, 3], [np.nan] * 3, [4, 5, 6]])


def test_a_list_unlike_most_and_one_with_a_hole_have_no_vector(tmp_path):
    rows = [[1.0, 2.0], [3.0], [], [4.0, None], [5.0, 6.0], [7.0, 8.0, 9.0]]
    file = only(
        parquet(tmp_path / "a.parquet", rows, pa.list_(pa.float32()), "embeddings", id=[*"abcdef"])
    )
    finite = np.isfinite(norms(read_vectors(file)))
    assert finite.tolist() == [True, False, False, False, True, False]


def test_several_row_groups_are_one_array(tmp_path):
    table = pa.table(
        {"id": [str(i) for i in range(10)], "embedding": [[float(i)] for i in range(10)]}
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    assert read_vectors(only(tmp_path)).ravel().tolist() == list(range(10))


@pytest.mark.parametrize("kind", [pa.list_(pa.int8()), pa.float32(), pa.string()])
def test_vectors_of_another_type_are_refused(tmp_path, kind):
    value = {"float": 1.0, "string": "1"}.get(str(kind), [1])
    parquet(tmp_path / "a.parquet", [value], kind, id=["x"])
    with pytest.raises(SchemaMismatch, match="expected lists of float"):
        read_vectors(only(tmp_path))


def test_columns_are_read_under_their_usual_names(tmp_path):
    clip_retrieval(
        tmp_path,
        0,
        planted(2),
        image_path=["000000001", "000000002"],
        key=["1", "2"],
        URL=["https://a", None],
        TEXT=["caption", ""],
        uid=[7, 8],
        sha256=[1.5, 2.5],
        original_width=[640.0, float("nan")],
    )
    rows = read_rows_of(only(tmp_path))
    assert rows == {
        "key": ["000000001", "000000002"],
        "uid": ["7", "8"],
        "url": ["https://a", None],
        "caption": ["caption", ""],
        "sha256": [None, None],
        "width": [640, None],
        "height": [None, None],
    }


def test_text_that_is_not_utf8_is_one_line(tmp_path):
    key = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"id": key, "embedding": [[1.0]]}), tmp_path / "a.parquet")
    with pytest.raises(ShardCorrupt, match=r"a.parquet: .*UTF8"):
        read_rows_of(only(tmp_path))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_chosen_rows_are_written_as_any_reader_of_npy_expects(tmp_path, dtype):
    vectors = (planted(40_000, 4) * 3).astype(dtype)
    rows = list(range(39_999, 0, -2))
    write_vectors(tmp_path / "x.npy", vectors, rows)
    found = np.load(tmp_path / "x.npy", allow_pickle=False)
    expected = vectors[rows]
    if dtype == "<f8":  # doubles lose their length, never their direction
        expected = expected / np.linalg.norm(expected, axis=1)[:, None]
    assert found.dtype == np.dtype("<f2" if dtype == "<f2" else "<f4")
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    write_vectors(tmp_path / "none.npy", vectors, [])
    assert np.load(tmp_path / "none.npy").shape == (0, 4)


def test_norms_tell_what_has_no_direction():
    vectors = np.array([[3.0, 4.0], [np.nan, 1], [np.inf, 1], [0, 0], [3e38, 3e38]], np.float32)
    found = norms(vectors)
    assert found[0] == 5 and np.isnan(found[1]) and np.isinf(found[2]) and found[3] == 0
    assert found[4] == pytest.approx(3e38 * np.sqrt(2), rel=1e-6)  # no overflow in float64
