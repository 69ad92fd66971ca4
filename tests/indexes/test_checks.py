import numpy as np
import pytest

from indexes.checks import checked, checked_ids, rows_of, unit
from indexes.errors import DimensionMismatch, NonFiniteVectors, VectorError


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_one_strange_number_is_refused_and_its_row_named(bad, metric, clusters):
    vectors = clusters(20_000, 8)
    vectors[17_003, 5] = bad
    with pytest.raises(NonFiniteVectors, match="row 17003 "):
        checked(vectors, metric)


@pytest.mark.parametrize("norm", [0.0, 0.999, 1.001])
def test_cosine_wants_norm_one(norm, clusters):
    vectors = clusters(10, 8)
    vectors[4] *= norm
    with pytest.raises(VectorError, match="row 4 has norm"):
        checked(vectors, "cosine")
    assert checked(vectors, "l2") is vectors


def test_a_norm_whose_square_overflows_is_refused():
    vectors = np.full((3, 4), 1e30, np.float32)
    with pytest.raises(VectorError, match="scale down"):
        checked(vectors, "l2")


@pytest.mark.parametrize(
    "vectors",
    [np.ones((2, 4)), np.ones((2, 4), np.float16), np.ones(4, np.float32), np.ones((2, 4), object)],
)
def test_only_float32_tables_are_vectors(vectors):
    with pytest.raises(DimensionMismatch):
        checked(vectors, "l2")


def test_another_width_is_refused(clusters):
    with pytest.raises(DimensionMismatch, match=r"\(n, 16\)"):
        checked(clusters(3, 8), "cosine", 16)


@pytest.mark.parametrize("codes", [np.zeros((2, 31), np.uint8), np.zeros((2, 32), np.int8)])
def test_codes_are_32_bytes(codes):
    with pytest.raises(DimensionMismatch):
        checked(codes, "hamming")


def test_an_unknown_metric_is_named(clusters):
    with pytest.raises(VectorError, match="dot"):
        checked(clusters(3, 8), "dot")


def test_unit_mends_what_cosine_refuses():
    rows = np.array([[3, 4], [1e-30, 0], [1e18, 1e18]], np.float32)
    mended = unit(rows)
    assert mended.dtype == np.float32
    assert checked(mended, "cosine") is mended
    assert np.allclose(mended, [[0.6, 0.8], [1, 0], [2**-0.5, 2**-0.5]])
    with pytest.raises(VectorError, match="row 1 is zero"):
        unit(np.array([[1, 0], [0, 0]], np.float32))
    with pytest.raises(NonFiniteVectors, match="row 0"):
        unit(np.array([[np.nan, 0], [0, 0]], np.float32))


def test_ids_are_distinct_and_not_negative():
    with pytest.raises(VectorError, match="id 7 is given twice"):
        checked_ids(np.array([7, 3, 7]), 3)
    with pytest.raises(VectorError, match="id -1 is negative"):
        checked_ids(np.array([4, -1]), 2)
    with pytest.raises(DimensionMismatch):
        checked_ids(np.array([1, 2]), 3)
    with pytest.raises(DimensionMismatch):
        checked_ids(np.array([1.0, 2.0]), 2)
    largest = np.array([2**63 - 1, 0])
    assert np.array_equal(checked_ids(largest, 2), largest)


def test_rows_of_looks_up_in_any_order():
    ids = np.array([30, 10, 2**62, 20])
    assert rows_of(np.array([20, 30, 30, 2**62]), ids).tolist() == [3, 0, 0, 2]
    for unknown in (5, 25, 2**63 - 1):
        with pytest.raises(VectorError, match=f"id {unknown} "):
            rows_of(np.array([10, unknown]), ids)
    with pytest.raises(VectorError):
        rows_of(np.array([1]), np.zeros(0, np.int64))
    assert len(rows_of(np.zeros(0, np.int64), np.zeros(0, np.int64))) == 0
