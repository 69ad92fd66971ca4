import numpy as np
import pytest


def make_clusters(n, d, seed=0, noise=0.6, size=4):
    """Unit vectors in groups of `size` around random directions: cosines all over (0, 1)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(-(-n // size), d))
    points = np.repeat(centres, size, axis=0)[:n] + noise * rng.normal(size=(n, d))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points.astype(np.float32)


def make_ids(n, seed=0):
    """Distinct 63-bit ids in no order."""
    rng = np.random.default_rng(seed + 1000)
    ids = np.unique(rng.integers(0, 2**63 - 1, size=2 * n + 8, dtype=np.int64))
    return rng.permutation(ids)[:n]


@pytest.fixture
def clusters():
    return make_clusters


@pytest.fixture
def some_ids():
    return make_ids


@pytest.fixture
def codes():
    def make(n, seed=0, size=4, flips=40):
        """256-bit codes in groups that differ in some tens of bits."""
        rng = np.random.default_rng(seed)
        bits = np.repeat(rng.integers(0, 2, size=(-(-n // size), 256)), size, axis=0)[:n]
        for row in bits:
            row[rng.choice(256, rng.integers(0, flips), replace=False)] ^= 1
        return np.packbits(bits.astype(np.uint8), axis=1)

    return make
