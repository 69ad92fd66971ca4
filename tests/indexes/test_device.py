"""The join on a device against the same join on the CPU."""

import sys

import numpy as np
import pytest

import indexes
from indexes import VectorError, device
from indexes.device import DeviceProducts


def joined(vectors, ids, threshold, where, **cells):
    built = indexes.build_cells(vectors, ids, **cells)
    pairs = indexes.cell_join(vectors, ids, built, threshold, device=where)
    return list(
        zip(pairs.id_a.tolist(), pairs.id_b.tolist(), pairs.similarity.tolist(), strict=True)
    )


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_torch_gives_the_pairs_and_scores_of_numpy(clusters, some_ids, threshold, dtype):
    vectors, ids = clusters(700, 32, noise=0.2).astype(dtype), some_ids(700)
    expected = joined(vectors, ids, threshold, None, cells=9, probes=3)
    assert joined(vectors, ids, threshold, "cpu", cells=9, probes=3) == expected
    assert len(expected) > 100


def test_a_pair_exactly_at_the_threshold_is_found(clusters, some_ids):
    vectors, ids = clusters(300, 24), some_ids(300)
    for a, b, score in joined(vectors, ids, 0.5, None, cells=1)[:20]:
        assert (a, b, score) in joined(vectors, ids, score, "cpu", cells=1)


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_no_near_pair_is_left_out_and_few_others_come(clusters, precision):
    """Against float64; half precision on the CPU rounds as a device does."""
    vectors = 5 * clusters(600, 64, noise=0.05)  # of no unit norm
    exact = indexes.unit(vectors).astype(np.float64)
    exact = exact @ exact.T
    threshold = float(np.quantile(exact, 0.98))
    products = DeviceProducts(vectors, "cpu", precision=precision)
    guests, hosts = np.arange(100, 600), np.arange(250)[::-1].copy()
    guest, host = products.near(guests, hosts, threshold)
    found = np.zeros_like(exact, bool)
    found[guest, host] = True
    asked = np.zeros_like(found)
    asked[np.ix_(guests, hosts)] = True
    assert not (asked & (exact >= threshold) & ~found).any()
    assert not (found & (exact < threshold - 2 * device.PRODUCT_ERROR["float16"])).any()
    assert not (found & ~asked).any() and found.sum() == len(guest) > 100


def test_blocks_do_not_matter(clusters, monkeypatch):
    vectors = clusters(200, 16)
    rows = np.arange(200)
    whole = DeviceProducts(vectors, "cpu").near(rows, rows, 0.6)
    monkeypatch.setattr(device, "_PRODUCTS_AT_ONCE", 700)
    blocks = DeviceProducts(vectors, "cpu").near(rows, rows, 0.6)
    assert [w.tolist() for w in whole] == [b.tolist() for b in blocks]
    nobody = DeviceProducts(vectors, "cpu").near(rows, rows[:0], 0.6)
    assert [len(side) for side in nobody] == [0, 0]


def test_a_device_that_is_not_there_is_named(clusters, monkeypatch):
    vectors = clusters(20, 8)
    with pytest.raises(VectorError, match="device 'nonsense'"):
        DeviceProducts(vectors, "nonsense")
    with pytest.raises(VectorError, match="device 'cuda:99'"):
        DeviceProducts(vectors, "cuda:99")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(VectorError, match="needs torch"):
        DeviceProducts(vectors, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("room", [0.5, 0.0])
@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95])
def test_cuda_gives_the_pairs_and_scores_of_the_cpu(
    clusters, some_ids, threshold, room, monkeypatch
):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(device, "_SHARE_OF_MEMORY", room)
    vectors, ids = clusters(5000, 64, noise=0.2).astype(np.float16), some_ids(5000)
    expected = joined(vectors, ids, threshold, None, cells=20, probes=4)
    assert joined(vectors, ids, threshold, "cuda", cells=20, probes=4) == expected
