"""Small random graphs of near-duplicates, and components by hand."""

import numpy as np
from hypothesis import strategies as st

from indexes.join import Pairs


def make_pairs(edges):
    edges = sorted({(min(a, b), max(a, b)): s for a, b, s in edges if a != b}.items())
    return Pairs(
        np.array([a for (a, _), _ in edges], np.int64),
        np.array([b for (_, b), _ in edges], np.int64),
        np.array([s for _, s in edges], np.float64),
    )


def union_find(ids, edges):
    parent = {i: i for i in ids}

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for a, b, _ in edges:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(i) for i in ids]


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    ids = rng.permutation(10**4)[:n].astype(np.int64)
    table = {}
    for _ in range(draw(st.integers(0, 30))):
        a, b = sorted(rng.choice(ids, 2).tolist())
        if a != b:
            table[a, b] = float(rng.choice([0.6, 0.7, 0.8, 0.9]))
    rank = rng.integers(0, draw(st.sampled_from([1, 4, 100])), n)
    return ids, rank, [(a, b, s) for (a, b), s in table.items()]
