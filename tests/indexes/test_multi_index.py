import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import indexes
from indexes import multi_index
from indexes.multi_index import Tables, cheapest_tables

KINDS = ("uniform", "clusters", "equal", "one_bucket", "few_bits", "copies")


def drawn(kind: str, n: int, seed: int) -> np.ndarray:
    """Codes as real ones are, and as no picture would make them."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (n, 32), dtype=np.uint8)
    if kind == "equal":
        codes[:] = codes[0]
    elif kind == "one_bucket":  # whatever the bits of a chunk, 200 are the same in all codes
        codes[:, :25] = codes[0, :25]
    elif kind == "few_bits":
        codes[:, 3:] = 0
    elif kind in ("clusters", "copies"):
        centres = codes[rng.integers(0, max(n // 8, 1), n)]
        share = 0.12 if kind == "clusters" else 0.004
        codes = centres ^ np.packbits(rng.random((n, 256)) < share, axis=1)
    return codes


def by_brute_force(codes: np.ndarray, ids: np.ndarray, radius: int) -> list[tuple]:
    bits = np.unpackbits(codes, axis=1).astype(np.int64)
    distance = bits @ (1 - bits).T + (1 - bits) @ bits.T
    return sorted(
        (int(min(ids[i], ids[j])), int(max(ids[i], ids[j])), 1 - distance[i, j] / 256)
        for i, j in np.argwhere(np.triu(distance <= radius, 1))
    )


def as_rows(*parts: indexes.Pairs) -> list[tuple]:
    return sorted(
        row
        for pairs in parts
        for row in zip(
            pairs.id_a.tolist(), pairs.id_b.tolist(), pairs.similarity.tolist(), strict=True
        )
    )


@pytest.fixture
def always(monkeypatch):
    """Tables are used however few the codes, in blocks that a small set fills several times."""
    monkeypatch.setattr(multi_index, "VISIT", 1e-9)
    monkeypatch.setattr(multi_index, "CANDIDATE", 1e-9)
    nobody = lambda search: np.zeros(len(search._first), bool)  # noqa: E731
    monkeypatch.setattr(multi_index._Search, "crowded", nobody)
    monkeypatch.setattr(multi_index, "_MOST_KEY_BITS", 8)
    monkeypatch.setattr(multi_index, "_LOOKUPS_AT_ONCE", 1 << 11)
    monkeypatch.setattr(multi_index, "_CANDIDATES_AT_ONCE", 600)
    monkeypatch.setattr(multi_index, "_PENDING", 300)
    monkeypatch.setattr(multi_index, "_QUERIES_AT_ONCE", 50)
    monkeypatch.setattr(multi_index, "STORED_AT_ONCE", 61)


@pytest.fixture
def no_scan(monkeypatch):
    def refused(vectors, ids, threshold, owned, *others):
        assert not len(owned)
        return ids[:0], ids[:0], np.zeros(0)

    monkeypatch.setattr("indexes.join._scan", refused)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(KINDS), st.integers(0, 90), st.integers(0, 2), st.integers(0, 10**6))
@example("equal", 0, 0, 0)
@example("one_bucket", 31, 1, 1)
@example("uniform", 90, 2, 2)
def test_no_pair_is_missed_or_told_twice(always, no_scan, kind, radius, flips, seed):
    codes = drawn(kind, 90, seed)
    ids = np.random.default_rng(seed).permutation(10**6)[:90]
    expected = by_brute_force(codes, ids, radius)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_index, "_MOST_FLIPS", flips)
        parts = [slice(0, 20), slice(20, 21), slice(21, None)]
        found = [indexes.hamming_join(codes, ids, radius, rows=rows) for rows in parts]
        assert as_rows(*found) == expected
        assert as_rows(indexes.hamming_join(codes, ids, radius)) == expected
        order = np.random.default_rng(seed + 1).permutation(90)
        again = indexes.hamming_join(codes[order], ids[order], radius)
        assert list(zip(again.id_a, again.id_b, again.similarity, strict=True)) == expected


def test_a_pair_on_the_radius_that_spreads_over_all_chunks(always, no_scan):
    """Two bits off in each of 15 chunks and one in the last: the tightest case of the theorem."""
    codes = np.random.default_rng(0).integers(0, 256, (40, 32), dtype=np.uint8)
    off = np.zeros(256, np.uint8)
    chunks = multi_index._dealt_bits(codes, Tables(16, 16, 1))
    for number, bits in enumerate(chunks):
        off[bits[: 2 if number < 15 else 1]] = 1
    codes[39] = codes[0] ^ np.packbits(off)
    assert off.sum() == 31
    assert as_rows(indexes.hamming_join(codes, np.arange(40), 31)) == [(0, 39, 1 - 31 / 256)]
    assert as_rows(indexes.hamming_join(codes, np.arange(40), 30)) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_crowded_codes_are_left_to_the_scan_and_the_others_are_not(threads):
    """1,200 codes around one centre among 30,000: what the default weights do."""
    codes = drawn("uniform", 30_000, 3)
    rng = np.random.default_rng(4)
    near = np.packbits(rng.random((1200, 256)) < 0.02, axis=1)
    codes[rng.permutation(30_000)[:1200]] = codes[0] ^ near
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        every = np.arange(30_000)
        rows, _, crowded = multi_index.later_neighbours(codes, every, 31)
        found = indexes.hamming_join(codes, every, 31)
    finally:
        faiss.omp_set_num_threads(before)
    assert len(crowded) > 1100
    assert not set(rows) & set(crowded)
    assert not set(range(15_000)) <= set(crowded)
    flat = faiss.IndexBinaryFlat(256)
    flat.add(codes)
    limits, _, labels = flat.range_search(codes, 32)
    asked = np.repeat(every, np.diff(limits.astype(np.int64)))
    later = labels > asked
    expected = np.sort(30_000 * asked[later] + labels[later])
    assert np.array_equal(30_000 * found.id_a + found.id_b, expected)
    assert len(expected) > 700_000


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 256), st.integers(0, 10**9))
def test_tables_satisfy_the_pigeonhole_and_are_faster_or_not_used(radius, n):
    tables = cheapest_tables(radius, n)
    if tables is None:
        return
    assert tables.chunks * (tables.flips + 1) > radius
    assert tables.chunks * tables.key_bits <= 256
    assert tables.cost(n) < n / 2 and radius < 128


def test_when_tables_are_used():
    assert cheapest_tables(31, 10_000) is None
    assert cheapest_tables(31, 100_000) == Tables(16, 16, 1)
    assert cheapest_tables(90, 10**7) is None  # keys of five bits tell nothing
    assert cheapest_tables(0, 100_000).chunks == 1
    assert cheapest_tables(-1, 100_000) is None
