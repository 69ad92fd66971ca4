import math

import numpy as np
import pytest

import indexes
from indexes.join import Pairs
from indexes.recall import measured_recall, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (5, 10, 0.236593, 0.763407),
        (81, 263, 0.255289, 0.366213),
    ],
)
def test_wilson_by_its_quadratic(hits, n, low, high):
    """The bounds solve (p - q)^2 = z^2 q (1 - q) / n; 81 of 263 is Newcombe's (1998) example."""
    found = wilson(hits, n)
    assert found == pytest.approx((low, high), abs=1.1e-4)
    for bound in found:
        if 0 < bound < 1:
            gap = (hits / n - bound) ** 2
            assert gap == pytest.approx(1.959963984540054**2 * bound * (1 - bound) / n)


def test_nothing_measured_is_said_so():
    assert wilson(0, 0) == (0, 1)
    far_apart = np.eye(4, dtype=np.float32)
    no_pairs = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    recall = measured_recall(far_apart, np.arange(4), no_pairs, 0.5)
    assert (recall.n, recall.hits, recall.low, recall.high) == (0, 0, 0, 1)
    assert math.isnan(recall.recall)


def without(pairs, lost):
    kept = ~lost
    return Pairs(pairs.id_a[kept], pairs.id_b[kept], pairs.similarity[kept])


def test_all_ids_sampled_give_the_true_recall(clusters, some_ids):
    vectors, ids = clusters(400, 16), some_ids(400)
    pairs = indexes.self_join(vectors, ids, 0.6)
    assert measured_recall(vectors, ids, pairs, 0.6).recall == 1
    lost = np.arange(len(pairs)) % 4 == 0
    recall = measured_recall(vectors, ids, without(pairs, lost), 0.6)
    assert (recall.n, recall.hits) == (len(pairs), len(pairs) - lost.sum())
    assert recall.low < recall.recall < recall.high


def test_the_sample_counts_pairs_of_its_ids_once(clusters, some_ids):
    vectors, ids = clusters(400, 16), some_ids(400)
    pairs = indexes.self_join(vectors, ids, 0.6)
    lost = np.random.default_rng(0).random(len(pairs)) < 0.3
    recall = measured_recall(vectors, ids, without(pairs, lost), 0.6, sample=150, seed=4)
    assert 0 < recall.n < len(pairs)
    assert recall.low <= 0.7 <= recall.high


def test_row_order_does_not_change_the_sample_and_the_seed_does(clusters, some_ids):
    vectors, ids = clusters(400, 16), some_ids(400)
    pairs = indexes.self_join(vectors, ids, 0.6)
    half = without(pairs, np.arange(len(pairs)) % 2 == 0)
    order = np.random.default_rng(1).permutation(400)
    one = measured_recall(vectors, ids, half, 0.6, sample=60)
    assert measured_recall(vectors[order], ids[order], half, 0.6, sample=60) == one
    others = {measured_recall(vectors, ids, half, 0.6, sample=60, seed=s) for s in range(1, 6)}
    assert others != {one}


def test_recall_of_a_hamming_join(codes, some_ids):
    stored, ids = codes(200), some_ids(200)
    pairs = indexes.hamming_join(stored, ids, 31)
    recall = measured_recall(stored, ids, pairs, 31, metric="hamming")
    assert recall.n == recall.hits == len(pairs) > 0


@pytest.mark.parametrize("sample", [1000, 40])
def test_recall_counts_ids_that_have_several_codes_once(codes, sample):
    """Mirrored and second codes are found by the exact scan, too, and make no pair of their own."""
    stored, ids = codes(200), np.arange(200) % 150
    mirror = np.full(32, 0x55, np.uint8)
    stored[1::4] ^= mirror
    pairs = indexes.hamming_join(stored, ids, 31, mirror=mirror)
    plain = indexes.hamming_join(stored, ids, 31)
    assert len(plain) < len(pairs)
    settings = {"metric": "hamming", "mirror": mirror, "sample": sample}
    recall = measured_recall(stored, ids, pairs, 31, **settings)
    assert recall.hits == recall.n > 0 and (recall.n == len(pairs)) == (sample == 1000)
    assert measured_recall(stored, ids, plain, 31, **settings).hits < recall.n
    true = indexes.sampled_pairs(stored, ids, 31, metric="hamming", mirror=mirror)
    assert np.array_equal(1 - true.similarity / 256, pairs.similarity)
