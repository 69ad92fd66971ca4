"""Components of edges that come in batches, against scipy and union-find by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from indexes.errors import VectorError
from indexes.labels import ComponentLabels


def by_scipy(ids, a, b):
    rows = np.searchsorted(ids, a), np.searchsorted(ids, b)
    graph = sparse.coo_array((np.ones(len(a)), rows), shape=(len(ids), len(ids)))
    _, component = sparse.csgraph.connected_components(graph, directed=False)
    return np.array([ids[component == c].min() for c in component])


def in_batches(ids, a, b, size, scratch=None):
    with ComponentLabels(ids, scratch) as labels:
        for start in range(0, len(a), size):
            labels.join(a[start : start + size], b[start : start + size])
        return labels.labels()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 60), st.integers(0, 90), st.integers(1, 7))
def test_batches_give_what_scipy_gives(seed, n, edges, size):
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(10**6, n, replace=False))
    a, b = rng.choice(ids, edges), rng.choice(ids, edges)
    expected = by_scipy(ids, a, b)
    assert np.array_equal(in_batches(ids, a, b, size), expected)
    order = rng.permutation(edges)
    assert np.array_equal(in_batches(ids, b[order], a[order], size + 3), expected)


CHAIN = 600
ORDERS = {
    "from the far end": np.arange(CHAIN - 1)[::-1],
    "from the near end": np.arange(CHAIN - 1),
    "evens first": np.argsort(np.arange(CHAIN - 1) % 2, kind="stable"),
    "by halves": np.array(
        sorted(range(CHAIN - 1), key=lambda i: -((i + 1) & -(i + 1)))  # the longest steps last
    )[::-1],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("size", [1, 7, CHAIN])
def test_long_chains_in_bad_orders_on_disk(tmp_path, order, size):
    """A chain and an id that is in none; pointers in a file."""
    ids = np.arange(CHAIN + 1, dtype=np.int64) * 5 + 2**61
    a, b = ids[order], ids[order + 1]
    found = in_batches(ids, a, b, size, tmp_path / "points.npy")
    assert (found[:-1] == ids[0]).all() and found[-1] == ids[-1]
    assert (tmp_path / "points.npy").stat().st_size > 4 * CHAIN  # they were there


def test_paths_stay_short_however_many_batches_come():
    """Each edge is a batch of its own and makes the path longer: halving keeps the search short."""
    n = 1500
    ids = np.arange(n)
    labels = ComponentLabels(ids)
    steps = 0
    read = labels._roots

    def counted(rows):
        nonlocal steps
        path, here = 0, int(rows[0]) if len(rows) else 0
        while labels._points[here] != here:
            here, path = int(labels._points[here]), path + 1
        steps += path
        return read(rows)

    labels._roots = counted
    for i in range(n - 1, 0, -1):
        labels.join(ids[[i, n - 1]], ids[[i - 1, i]])  # the far end is asked for each time
    assert (labels.labels() == 0).all()
    assert steps < 40 * n  # n^2 / 2 is a million


def test_edges_between_batches_join_whole_components():
    ids = np.arange(10)
    labels = ComponentLabels(ids)
    labels.join(np.array([8, 6]), np.array([9, 7]))
    labels.join(np.array([9]), np.array([7]))
    assert labels.labels().tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 6, 6]
    labels.join(np.array([2]), np.array([8]))  # more may come after one looked
    assert labels.block(6, 8).tolist() == [2, 2]


def test_ids_must_ascend_and_be_known():
    with pytest.raises(VectorError, match="ascend"):
        ComponentLabels(np.array([2, 1]))
    with pytest.raises(VectorError, match="id 9 "):
        ComponentLabels(np.array([1, 2])).join(np.array([1]), np.array([9]))
    assert len(ComponentLabels(np.zeros(0, np.int64)).labels()) == 0
