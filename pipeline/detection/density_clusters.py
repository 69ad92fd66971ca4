"""Clusters of generations that look alike to a copy descriptor (MemBench: Hong et al. 2024).

DBSCAN (Ester et al. 1996) on the distance 1 - cosine: a core has `min_size` generations, itself
included, within `eps`; cores within `eps` of each other are of one cluster, and so is whatever is
within `eps` of one of its cores. MemBench takes SSCD, eps 0.5 and 3 of 50; another encoder has
other cosines. Cliques (cliques.py) want all members near each other in pixels; here a chain will
do, and a picture that moves or changes colour stays.

What lies near cores of two clusters goes with the nearest core, ties with the smallest place, so
that no order of visits decides.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from pipeline.detection.errors import MeasureError

EPS = 0.5
MIN_SIZE = 3
_DECIMALS = 6

Labels = npt.NDArray[np.int64]


def density_clusters(
    descriptors: npt.NDArray[np.floating], *, eps: float = EPS, min_size: int = MIN_SIZE
) -> Labels:
    """The cluster of each of n descriptors (n, d), any length; -1 where it is in none.

    Clusters are numbered from 0, the largest first, then by their first member. Distances are
    rounded to 6 decimals. Raises MeasureError on vectors not finite or zero, and on `min_size` < 1.
    """
    if descriptors.ndim != 2 or min_size < 1:
        raise MeasureError(f"descriptors: {descriptors.shape}, min_size: {min_size}")
    vectors = descriptors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise MeasureError("descriptors: expected finite vectors that are not zero")
    unit = vectors / lengths
    distances = (1 - unit @ unit.T).round(_DECIMALS)
    np.fill_diagonal(distances, 0)
    near = distances <= eps
    cores = near.sum(axis=1) >= min_size
    labels = np.full(len(unit), -1)
    if not cores.any():
        return labels
    places = np.flatnonzero(cores)
    labels[places] = connected_components(csr_array(near[np.ix_(places, places)]))[1]
    nearest = places[distances[:, places].argmin(axis=1)]
    reached = near[np.arange(len(unit)), nearest]
    labels[reached] = labels[nearest[reached]]
    return _by_size(labels)


def _by_size(labels: Labels) -> Labels:
    found, first, sizes = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    rank = np.full(len(found) + 1, -1)  # the last place is that of label -1
    rank[found[np.lexsort((first, -sizes))]] = np.arange(len(found))
    return rank[labels]
