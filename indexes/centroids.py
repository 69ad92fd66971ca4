"""Centroids of cells: spherical k-means in two levels.

c centroids of one k-means cost some c^2 inner products, for its sample grows with c. Here the
sample is first put into sqrt(c) groups, and each group then gets as many of the c centroids as it
has of the sample: c^1.5. That they are not those of one k-means does no harm, since vectors are
put into the cell of their nearest centroid, whatever group it is from.
"""

from math import sqrt

import faiss
import numpy as np

from indexes.checks import unit
from indexes.metrics import Vectors

TRAINED_ON = 64
"""Vectors a centroid."""

ITERATIONS = 10


def train_centroids(sample: Vectors, count: int, seed: int) -> Vectors:
    """`count` centroids (count, p) of unit norm, of a `sample` (s, p) with s >= count."""
    groups = round(sqrt(count))
    coarse = faiss.IndexFlatIP(sample.shape[1])
    coarse.add(_kmeans(sample, groups, seed))
    group = coarse.search(sample, 1)[1][:, 0]
    ends = np.cumsum(np.bincount(group, minlength=groups))
    shares = np.diff(np.rint(ends * (count / len(sample))).astype(int), prepend=0)
    fine = [
        _kmeans(sample[group == number], int(share), seed)
        for number, share in enumerate(shares)
        if share
    ]
    return np.concatenate(fine)


def _kmeans(sample: Vectors, count: int, seed: int) -> Vectors:
    kmeans = faiss.Kmeans(
        sample.shape[1],
        count,
        niter=ITERATIONS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=4 * TRAINED_ON,
    )
    kmeans.train(sample)
    return unit(np.asarray(kmeans.centroids))
