import numpy as np
import pytest

from indexes import binary
from indexes.errors import DimensionMismatch, VectorError


def test_distances_are_counts_of_differing_bits(codes, some_ids):
    stored, ids = codes(400), some_ids(400)
    index = binary.build(stored, ids, fingerprint="pdq")
    assert (index.d, index.metric, index.factory, index.fingerprint) == (
        256, "hamming", "BFlat", "pdq",
    )  # fmt: skip
    distances, found = index.search(stored[:20], 6)
    for query, row_distances, row_ids in zip(stored, distances, found, strict=False):
        bits = [bin(int.from_bytes(query) ^ int.from_bytes(code)).count("1") for code in stored]
        expected = sorted(zip(bits, ids.tolist(), strict=True))[:6]
        assert list(zip(row_distances, row_ids, strict=True)) == expected


@pytest.mark.parametrize("bound", [0, 31, 256])
def test_the_bound_counts(bound):
    ladder = np.packbits(np.tri(257, 256, -1, dtype=np.uint8), axis=1)
    index = binary.build(ladder, np.arange(257))
    _, ids, distances = index.within(np.zeros((1, 32), np.uint8), bound)
    assert ids.tolist() == list(range(bound + 1)) == distances.tolist()


def test_bad_codes_and_ids_are_refused(codes, some_ids):
    with pytest.raises(DimensionMismatch):
        binary.build(codes(10)[:, :16], some_ids(10))
    with pytest.raises(VectorError, match="twice"):
        binary.build(codes(2), np.array([4, 4]))
    index = binary.build(codes(10), some_ids(10))
    with pytest.raises(DimensionMismatch):
        index.search(np.zeros((1, 256), np.float32), 1)
