"""Centroids of two levels, beside those of one k-means."""

import faiss
import numpy as np
import pytest

from indexes import unit
from indexes.centroids import train_centroids


def clustered(n: int, d: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    around = rng.standard_normal((30, d))[rng.integers(0, 30, n)]
    return unit(around + 0.5 * rng.standard_normal((n, d)))


@pytest.mark.parametrize("n, count", [(1, 1), (2, 2), (50, 50), (50, 49), (500, 3), (2000, 77)])
def test_there_are_as_many_as_asked_for_and_of_unit_norm(n, count):
    centroids = train_centroids(clustered(n), count, seed=0)
    assert centroids.shape == (count, 16)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)


def test_vectors_are_about_as_near_as_to_those_of_one_kmeans():
    vectors = clustered(6400)
    whole = faiss.Kmeans(16, 100, niter=10, seed=0, spherical=True)
    whole.train(vectors)
    best = (vectors @ np.asarray(whole.centroids).T).max(axis=1).mean()
    ours = (vectors @ train_centroids(vectors, 100, seed=0).T).max(axis=1).mean()
    anyhow = (vectors @ vectors[:100].T).max(axis=1).mean()
    assert ours > best - 0.15 * (best - anyhow)


def test_equal_vectors_and_the_seed():
    equal = np.repeat(clustered(1), 40, axis=0)
    assert np.isfinite(train_centroids(equal, 7, seed=0)).all()
    vectors = clustered(1000)
    first, again, other = (train_centroids(vectors, 20, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
