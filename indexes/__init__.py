"""Near-duplicate search over any descriptor: vectors and ids in, neighbours and pairs out.

index = indexes.build(vectors, ids, metric="cosine")
similarity, neighbour = index.search(queries, 5)
pairs = indexes.self_join(vectors, ids, threshold=0.6)
"""

from indexes.borderline import cell_nearest_below, nearest_below
from indexes.cells import Cells, build_cells, cell_join
from indexes.checks import unit
from indexes.components import (
    Clique,
    Cover,
    diameter,
    greedy_cover,
    weakest_links,
)
from indexes.errors import (
    DimensionMismatch,
    IndexCorrupt,
    NonFiniteVectors,
    TooManyPairs,
    VectorError,
)
from indexes.exact import knn, range_pairs
from indexes.hubs import Hubs, hub_leaders, hub_radius, make_hubs, nearest_leader
from indexes.ivf import build, default_factory
from indexes.join import Pairs, exact_classes, hamming_join, least_hamming, self_join, stars
from indexes.labels import ComponentLabels, connected_components
from indexes.metrics import cosine, euclidean, hamming
from indexes.nearest import NearestIndex
from indexes.recall import Recall, measured_recall, recall_of, sampled_pairs, wilson
from indexes.splits import split_chains
from indexes.store import load, save

__all__ = [
    "Cells",
    "Clique",
    "ComponentLabels",
    "Cover",
    "DimensionMismatch",
    "Hubs",
    "IndexCorrupt",
    "NearestIndex",
    "NonFiniteVectors",
    "Pairs",
    "Recall",
    "TooManyPairs",
    "VectorError",
    "build",
    "build_cells",
    "cell_join",
    "cell_nearest_below",
    "connected_components",
    "cosine",
    "default_factory",
    "diameter",
    "euclidean",
    "exact_classes",
    "greedy_cover",
    "hamming",
    "hamming_join",
    "hub_leaders",
    "hub_radius",
    "knn",
    "least_hamming",
    "load",
    "make_hubs",
    "measured_recall",
    "nearest_below",
    "nearest_leader",
    "range_pairs",
    "recall_of",
    "sampled_pairs",
    "save",
    "self_join",
    "split_chains",
    "stars",
    "unit",
    "weakest_links",
    "wilson",
]
