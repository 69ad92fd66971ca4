"""Which members of a group of near-duplicates are kept.

Connected components (indexes.labels) join a to c through b however far a is from c (chaining), so
they are only the coarse group. Inside, the survivors are the greedy maximal independent set in
order of rank: walk from the best rank on and keep an id unless a kept one is already its neighbour.
Then

    no two kept ids are neighbours, and every dropped id has a kept neighbour,

that is, the kept one stands for it at or above the threshold. Ties are broken by ids, so nothing
depends on the order of rows or edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from indexes.checks import checked_ids, rows_of
from indexes.errors import VectorError
from indexes.graph import build_graph
from indexes.hubs import similarity_bound
from indexes.join import Pairs
from indexes.metrics import DECIMALS, Ids, Metric, Rows, Scores

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cover:
    """Who is kept, who stands for the rest, and how near; aligned with the ids asked about.

    A kept id is its own representative, with similarity 1.
    """

    kept: Mask
    representative: Ids
    similarity: Scores


@dataclass(frozen=True, eq=False)
class Clique:
    """Ids that are all near each other, and how near each is to their leader, who is one."""

    members: Ids
    similarity: Scores
    metric: Metric = "cosine"


def greedy_cover(
    ids: Ids,
    rank: npt.NDArray[np.number],
    pairs: Pairs,
    class_of: Ids | None = None,
    cliques: Sequence[Clique] = (),
) -> Cover:
    """Keep by rank (n,), lower first, ties by the smallest id, so that the kept ids cover the rest.

    A dropped id's representative is its most similar kept neighbour, ties by the smallest id.

    `class_of` (n,) labels classes of exact copies (`exact_classes`). A class is then one node: an
    edge of any member is an edge of all, at most its best-ranked member is kept, and a copy whose
    class is dropped has the representative and the similarity that its centre has.

    `cliques` are sets of ids that are all near each other without having all their pairs: at most
    one of each is kept. A member that has no nearer kept neighbour goes to that one, with the
    similarity that their leader vouches for.
    """
    ids = checked_ids(ids, len(ids))
    if len(rank) != len(ids):
        raise VectorError(f"{len(ids)} ids need as many ranks, got {len(rank)} ranks")
    graph = build_graph(ids, pairs, class_of)
    best = graph.first_rows(ids, rank)
    source = np.concatenate([graph.a, graph.b])
    target = np.concatenate([graph.b, graph.a])
    similarity = np.concatenate([graph.similarity] * 2)
    members = [_distinct(graph.node_of[rows_of(c.members, ids)], c.similarity) for c in cliques]
    walk = np.lexsort((ids[best], rank[best]))
    kept = _greedy_independent_set(source, target, walk, [nodes for nodes, _ in members])
    for clique, (nodes, near) in zip(cliques, members, strict=True):
        for keeper in np.flatnonzero(kept[nodes]):  # at most one
            others = np.delete(np.arange(len(nodes)), keeper)
            source = np.append(source, nodes[others])
            target = np.append(target, np.full(len(others), nodes[keeper]))
            bound = similarity_bound(near[others], near[[keeper]], clique.metric)
            similarity = np.append(similarity, bound)
    standing_for, nearness = np.arange(len(best)), np.ones(len(best))
    useful = ~kept[source] & kept[target]
    source, target, similarity = source[useful], target[useful], similarity[useful]
    order = np.lexsort((ids[best[target]], -similarity, source))
    dropped, first = np.unique(source[order], return_index=True)
    standing_for[dropped], nearness[dropped] = target[order][first], similarity[order][first]
    representative = ids[best[standing_for[graph.node_of]]]
    return Cover(representative == ids, representative, nearness[graph.node_of])


def weakest_links(ids: Ids, pairs: Pairs) -> Scores:
    """For each id the similarity at which its component falls apart; nan where it is alone.

    That is the least edge of the component's maximum spanning tree: at a threshold just above it
    the component is two.
    """
    ids = checked_ids(ids, len(ids))
    rows = rows_of(pairs.id_a, ids), rows_of(pairs.id_b, ids)
    # A cost of 0 would be no edge in a sparse matrix; the cheapest tree has the largest similarity.
    graph = sparse.coo_array((2.0 - pairs.similarity, rows), shape=(len(ids), len(ids))).tocsr()
    tree = sparse.csgraph.minimum_spanning_tree(graph).tocoo()
    _, component = sparse.csgraph.connected_components(graph, directed=False)
    weakest = np.full(len(ids), np.inf)
    np.minimum.at(weakest, component[tree.row], 2.0 - tree.data)
    weakest[np.isinf(weakest)] = np.nan
    return np.round(weakest, DECIMALS)[component]


def diameter(pairs: Pairs) -> int:
    """Edges between the two farthest ids of a connected graph, found by two breadth-first searches.

    Exact for trees, never too large for others. 1 says that each is a near-duplicate of each.
    """
    ids, rows = np.unique(np.concatenate([pairs.id_a, pairs.id_b]), return_inverse=True)
    edges = (np.ones(len(pairs)), (rows[: len(pairs)], rows[len(pairs) :]))
    graph = sparse.coo_array(edges, shape=(len(ids), len(ids))).tocsr()
    _, end = _farthest(graph, 0)
    return _farthest(graph, end)[0]


def _farthest(graph: Any, start: int) -> tuple[int, int]:
    """The largest number of edges from `start` to a node, and such a node."""
    order, before = sparse.csgraph.breadth_first_order(graph, start, directed=False)
    place = np.empty(graph.shape[0], np.int64)
    place[order] = np.arange(len(order))
    parents = place[before[order[1:]]]  # ascending: a level's nodes are found in its order
    depth, end = 0, 1  # order[:end] are at most `depth` away
    while end < len(order):
        end = 1 + int(np.searchsorted(parents, end))
        depth += 1
    return depth, int(order[-1])


def _distinct(nodes: Rows, similarity: Scores) -> tuple[Rows, Scores]:
    """Each node once, with its largest similarity."""
    order = np.lexsort((-similarity, nodes))
    distinct, first = np.unique(nodes[order], return_index=True)
    return distinct, similarity[order][first]


def _greedy_independent_set(
    source: Rows, target: Rows, walk: Rows, cliques: Sequence[Rows] = ()
) -> Mask:
    """Which nodes are kept when they are visited in the order `walk`; linear in nodes and edges."""
    kept = np.ones(len(walk), bool)
    neighbours = target[np.argsort(source, kind="stable")]
    ends = np.cumsum(np.bincount(source, minlength=len(walk)))
    starts = np.concatenate([[0], ends[:-1]])
    joined = ends > starts
    nodes = np.concatenate([np.zeros(0, np.int64), *cliques])
    number = np.repeat(np.arange(len(cliques)), [len(clique) for clique in cliques])
    order = np.argsort(nodes, kind="stable")
    nodes, number = nodes[order], number[order]
    joined[nodes] = True
    for node in walk[joined[walk]]:
        if kept[node]:
            kept[neighbours[starts[node] : ends[node]]] = False
            for clique in number[slice(*np.searchsorted(nodes, [node, node + 1]))]:
                kept[cliques[clique]] = False
            kept[node] = True
    return kept
