"""Embeddings put in the order of their ids on disk, beside all of them read into memory."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ShardCorrupt
from pipeline.io import schemas
from pipeline.io.embeddings import map_embeddings, read_embeddings
from pipeline.io.runfolder import REKEYED, EmbeddingPart, image_part
from pipeline.io.tables import write_table


def add_part(run, name, ids, vectors):
    part, keys = EmbeddingPart("some", name), [f"{name}-{i}" for i in range(len(ids))]
    for path in (part.vectors, part.metadata, image_part(name)):
        (run / path).parent.mkdir(parents=True, exist_ok=True)
    np.save(run / part.vectors, vectors)
    columns = {"image_id": ids, "image_path": keys, "caption": keys, "key": keys}
    columns["quality"] = [None] * len(keys)
    write_table(run / part.metadata, pa.table(columns, schemas.EMBEDDING_METADATA))
    write_table(run / image_part(name), pa.table({"shard": [f"{name}.tar"] * len(keys)}))


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.permutation(90) + 7
    for number, rows in enumerate((ids[:50], ids[50:50], ids[50:])):
        add_part(tmp_path, f"{number:05d}", rows, rng.normal(size=(len(rows), 5)).astype("f2"))
    return tmp_path


def test_all_rows_by_id(run, tmp_path):
    ids, mapped = map_embeddings(run, "some", tmp_path / "by_id.npy")
    expected, vectors = read_embeddings(run, "some", normalise=False)
    assert ids.tolist() == expected.tolist() == list(range(7, 97))
    assert mapped.dtype == np.float16
    assert np.array_equal(mapped.astype(np.float32), vectors)


def test_some_rows_by_id(run, tmp_path):
    among = np.array([3, 9, 40, 41, 96, 97])
    ids, mapped = map_embeddings(run, "some", tmp_path / "by_id.npy", among=among)
    everything, vectors = read_embeddings(run, "some", normalise=False)
    assert ids.tolist() == [9, 40, 41, 96]
    assert np.array_equal(mapped.astype(np.float32), vectors[np.isin(everything, among)])


def test_an_id_that_collided_is_the_one_that_replaced_it(run, tmp_path):
    before, _ = read_embeddings(run, "some", normalise=False)
    first = schemas.REKEYED.names
    row = dict(zip(first, ("00002.tar", "00002-3", 0, 1000), strict=True))
    write_table(run / REKEYED, pa.Table.from_pylist([row], schemas.REKEYED))
    ids, mapped = map_embeddings(run, "some", tmp_path / "by_id.npy")
    expected, vectors = read_embeddings(run, "some", normalise=False)
    assert ids[-1] == 1000 and len(np.setdiff1d(before, ids)) == 1
    assert np.array_equal(ids, expected)
    assert np.array_equal(mapped.astype(np.float32), vectors)


def test_parts_of_two_widths_are_refused(run, tmp_path):
    add_part(run, "00003", np.arange(200, 203), np.ones((3, 6), np.float16))
    with pytest.raises(ShardCorrupt, match=r"00000\.npy is 5 wide, .*00003\.npy 6"):
        map_embeddings(run, "some", tmp_path / "by_id.npy")


def test_no_rows_at_all(tmp_path):
    add_part(tmp_path, "00000", np.arange(0), np.ones((0, 6), np.float16))
    ids, mapped = map_embeddings(tmp_path, "some", tmp_path / "by_id.npy")
    assert len(ids) == len(mapped) == 0
