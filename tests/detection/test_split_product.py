import numpy as np
import pytest

from pipeline.detection.errors import MeasureError
from pipeline.detection.split_product import split_product


def by_loop(v, q, chunks):
    v, q = [x.astype(np.float64) / np.sqrt(sum(float(y) ** 2 for y in x)) for x in (v, q)]
    size = len(v) // chunks
    return max(sum(v[i] * q[i] for i in range(c * size, (c + 1) * size)) for c in range(chunks))


@pytest.mark.parametrize("chunks", [1, 2, 4, 16])
def test_equals_loop(chunks):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 16)).astype(np.float32)
    expected = [by_loop(v, q, chunks) for v, q in zip(a, b, strict=True)]
    assert np.allclose(split_product(a, b, chunks=chunks), expected, rtol=0, atol=1e-12)


def test_chunks_are_not_normalized():
    # |v| = 1, chunks of squared length 0.36 and 0.64: the chunk's own product is the answer.
    v = np.array([[0.6, 0.0, 0.8, 0.0]], np.float32)
    assert split_product(v, v, chunks=2)[0] == pytest.approx(0.64, abs=1e-6)
    assert split_product(v, v, chunks=1)[0] == pytest.approx(1.0, abs=1e-12)


def test_whole_vectors_are_normalized():
    v = np.array([[0.6, 0.0, 0.8, 0.0]], np.float32)
    assert split_product(5 * v, v, chunks=2) == pytest.approx(split_product(v, v, chunks=2))


def test_finds_the_part_that_the_whole_hides():
    v = np.array([[1, 1, 1, 1]], np.float32)
    q = np.array([[1, 1, -1, -1]], np.float32)
    assert split_product(v, q, chunks=1)[0] == pytest.approx(0.0, abs=1e-12)
    assert split_product(v, q, chunks=2)[0] == pytest.approx(0.5)


def test_symmetric():
    a, b = np.random.default_rng(1).standard_normal((2, 6, 12)).astype(np.float32)
    products = split_product(a, b, chunks=3)
    assert np.allclose(products, split_product(b, a, chunks=3), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("a", "b", "chunks"),
    [
        (np.ones((2, 4)), np.ones((2, 4)), 3),
        (np.ones((2, 4)), np.ones((2, 4)), 0),
        (np.ones((2, 4)), np.ones((3, 4)), 2),
        (np.ones((1, 4)), np.ones((1, 6)), 2),
        (np.ones(4), np.ones(4), 2),
        (np.zeros((1, 4)), np.ones((1, 4)), 2),
        (np.full((1, 4), np.nan), np.ones((1, 4)), 2),
    ],
)
def test_refuses(a, b, chunks):
    with pytest.raises(MeasureError):
        split_product(a.astype(np.float32), b.astype(np.float32), chunks=chunks)
