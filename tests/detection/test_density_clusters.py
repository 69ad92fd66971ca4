import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detection.density_clusters import density_clusters
from pipeline.detection.errors import MeasureError


def dbscan(vectors, eps, min_size):
    """Ester et al. by expansion from each core: neighbours, cores, and the cores' clusters."""
    n = len(vectors)

    def near(i):
        found = []
        for j in range(n):
            a, b = vectors[i], vectors[j]
            cosine = float(a @ b / np.sqrt((a @ a) * (b @ b)))
            if i == j or round(1 - cosine, 6) <= eps:
                found.append(j)
        return found

    cores = [i for i in range(n) if len(near(i)) >= min_size]
    clusters, seen = [], set()
    for start in cores:
        if start in seen:
            continue
        members, frontier = set(), [start]
        while frontier:
            i = frontier.pop()
            if i in members:
                continue
            members.add(i)
            frontier += [j for j in near(i) if j in cores]
        seen |= members
        clusters.append(members)
    return near, cores, clusters


@given(
    st.integers(0, 10**6), st.integers(1, 14), st.sampled_from([0.05, 0.2, 0.5]), st.integers(1, 4)
)
def test_against_expansion(seed, n, eps, min_size):
    vectors = np.random.default_rng(seed).standard_normal((n, 3))
    labels = density_clusters(vectors, eps=eps, min_size=min_size)
    near, cores, clusters = dbscan(vectors, eps, min_size)
    for members in clusters:
        assert len({int(labels[i]) for i in members}) == 1
    assert len({int(labels[min(members)]) for members in clusters}) == len(clusters)
    for i in set(range(n)) - set(cores):
        reachable = {int(labels[j]) for j in near(i) if j in cores}
        assert (labels[i] in reachable) if reachable else labels[i] == -1


@given(st.integers(0, 10**6))
def test_the_order_of_generations_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((12, 3))
    order = rng.permutation(12)
    labels, again = density_clusters(vectors), density_clusters(vectors[order])
    together = labels[:, None] == labels[None, :]
    assert np.array_equal(together[np.ix_(order, order)], again[:, None] == again[None, :])
    assert (labels == 0).sum() == (again == 0).sum()


def rays(*degrees):
    return np.array([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees])


def test_the_published_threshold_is_an_angle_of_60_degrees():
    assert density_clusters(rays(0, 60, 120, 300)).tolist() == [0] * 4
    assert density_clusters(rays(0, 61, 122, 183)).tolist() == [-1] * 4
    assert density_clusters(rays(0, 60)).tolist() == [-1, -1]  # two are no cluster


def test_the_largest_comes_first():
    labels = density_clusters(rays(0, 1, 2, 180, 181, 182, 183, 90), eps=0.01)
    assert labels.tolist() == [1, 1, 1, 0, 0, 0, 0, -1]
    assert density_clusters(100 * rays(0, 1, 2)).tolist() == [0, 0, 0]  # lengths do not matter


def test_none():
    assert density_clusters(np.zeros((0, 4))).tolist() == []
    assert density_clusters(np.eye(5)).tolist() == [-1] * 5


def test_refuses():
    for vectors in (np.zeros((2, 3)), np.full((2, 3), np.nan)):
        with pytest.raises(MeasureError, match="finite"):
            density_clusters(vectors)
    with pytest.raises(MeasureError, match="descriptors"):
        density_clusters(np.zeros(3))
    with pytest.raises(MeasureError, match="min_size"):
        density_clusters(np.eye(3), min_size=0)
