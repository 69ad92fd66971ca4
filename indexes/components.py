"""Groups of near-duplicates, and which member of a group is kept.

Connected components join a to c through b however far a is from c (chaining), so they are only the
coarse group. Inside, the survivors are the greedy maximal independent set in order of rank: walk
from the best rank on and keep an id unless a kept one is already its neighbour. Then

    no two kept ids are neighbours, and every dropped id has a kept neighbour,

that is, the kept one stands for it at or above the threshold. Labels are smallest ids, so nothing
depends on the order of rows or edges.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from indexes.checks import checked_ids, rows_of
from indexes.errors import VectorError
from indexes.join import Pairs
from indexes.metrics import Ids, Rows, Scores

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cover:
    """Who is kept, who stands for the rest, and how near; aligned with the ids asked about.

    A kept id is its own representative, with similarity 1.
    """

    kept: Mask
    representative: Ids
    similarity: Scores


def connected_components(ids: Ids, id_a: Ids, id_b: Ids) -> Ids:
    """The smallest id of each id's component in the graph with edges (id_a[i], id_b[i])."""
    ids = checked_ids(ids, len(ids))
    n = len(ids)
    edges = (np.ones(len(id_a), np.int8), (rows_of(id_a, ids), rows_of(id_b, ids)))
    graph = sparse.coo_array(edges, shape=(n, n))
    count, component = sparse.csgraph.connected_components(graph, directed=False)
    smallest = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(smallest, component, ids)
    return smallest[component]


def greedy_cover(
    ids: Ids, rank: npt.NDArray[np.number], pairs: Pairs, class_of: Ids | None = None
) -> Cover:
    """Keep by rank (n,), lower first, ties by the smallest id, so that the kept ids cover the rest.

    A dropped id's representative is its most similar kept neighbour, ties by the smallest id.

    `class_of` (n,) labels classes of exact copies (`exact_classes`). A class is then one node: an
    edge of any member is an edge of all, at most its best-ranked member is kept, and a copy whose
    class is dropped has the representative and the similarity that its centre has.
    """
    ids = checked_ids(ids, len(ids))
    if len(rank) != len(ids) or (class_of is not None and len(class_of) != len(ids)):
        raise VectorError(f"{len(ids)} ids need as many ranks and classes, got {len(rank)} ranks")
    _, node_of = np.unique(ids if class_of is None else class_of, return_inverse=True)
    best = _best_rows(ids, rank, node_of)
    node_a = node_of[rows_of(pairs.id_a, ids)]
    node_b = node_of[rows_of(pairs.id_b, ids)]
    apart = node_a != node_b
    source = np.concatenate([node_a[apart], node_b[apart]])
    target = np.concatenate([node_b[apart], node_a[apart]])
    similarity = np.concatenate([pairs.similarity[apart]] * 2)
    kept = _greedy_independent_set(source, target, np.lexsort((ids[best], rank[best])))
    standing_for, nearness = np.arange(len(best)), np.ones(len(best))
    useful = ~kept[source] & kept[target]
    source, target, similarity = source[useful], target[useful], similarity[useful]
    order = np.lexsort((ids[best[target]], -similarity, source))
    dropped, first = np.unique(source[order], return_index=True)
    standing_for[dropped], nearness[dropped] = target[order][first], similarity[order][first]
    representative = ids[best[standing_for[node_of]]]
    return Cover(representative == ids, representative, nearness[node_of])


def _best_rows(ids: Ids, rank: npt.NDArray[np.number], node_of: Rows) -> Rows:
    """For each node the row of its best-ranked member."""
    order = np.lexsort((ids, rank, node_of))
    _, first = np.unique(node_of[order], return_index=True)
    return order[first]


def _greedy_independent_set(source: Rows, target: Rows, walk: Rows) -> Mask:
    """Which nodes are kept when they are visited in the order `walk`; linear in nodes and edges."""
    kept = np.ones(len(walk), bool)
    neighbours = target[np.argsort(source, kind="stable")]
    ends = np.cumsum(np.bincount(source, minlength=len(walk)))
    starts = np.concatenate([[0], ends[:-1]])
    for node in walk[(ends > starts)[walk]]:
        if kept[node]:
            kept[neighbours[starts[node] : ends[node]]] = False
    return kept
