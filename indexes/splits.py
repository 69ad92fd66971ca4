"""Chained groups, split where they hold together least.

Components join a to z through b, c, d ... (chaining). A piece is good if it has a star: one member
that is near all others. A component without one is cut at its weakest link, that is at the last
merge of single linkage, and so is each of its halves, until every piece has a star or one member.

Single linkage is the maximum spanning tree read from its strongest edge on (Gower and Ross 1969,
Applied Statistics 18); equal similarities merge in the order of their ids. Pieces are nodes of its
dendrogram, and all of them are judged at once: u is the star of node C if |C| - 1 of its edges end
in C. An edge (u, v) is inside C from their lowest common ancestor on, and no star begins anywhere
but at such an ancestor of one of its own edges. Sorted by ancestor, the k-th edge of u therefore
tells whether u is a star there: time E log E, however long the chain.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from indexes.graph import Graph, build_graph
from indexes.join import Pairs
from indexes.labels import smallest_mates
from indexes.metrics import Ids, Rows

_NEVER = np.iinfo(np.int64).max


def split_chains(ids: Ids, pairs: Pairs, class_of: Ids | None = None) -> Ids:
    """For each of `ids` (n,) the smallest id of its piece.

    `class_of` (n,) labels classes of exact copies, which are one member and stay together.
    """
    graph = build_graph(ids, pairs, class_of)
    smallest = np.full(graph.nodes, _NEVER)
    np.minimum.at(smallest, graph.node_of, ids)
    low, high = _ordered_edges(graph, smallest)
    piece = smallest_mates(graph.nodes, low, high)
    chained = ~_has_star(piece, low, high)
    if chained.any():
        inside = chained[low]
        rows, place = np.unique(np.concatenate([low[inside], high[inside]]), return_inverse=True)
        ends = np.split(place, 2)
        piece[rows] = graph.nodes + _pieces(len(rows), ends[0], ends[1])
    _, number = np.unique(piece, return_inverse=True)
    first = np.full(int(number.max(initial=-1)) + 1, _NEVER)
    np.minimum.at(first, number, smallest)
    return np.asarray(first[number[graph.node_of]])


def _ordered_edges(graph: Graph, smallest: Ids) -> tuple[Rows, Rows]:
    """Each edge once, the most similar first, then by the ids of its ends, smaller first."""
    swap = smallest[graph.a] > smallest[graph.b]
    low, high = np.where(swap, graph.b, graph.a), np.where(swap, graph.a, graph.b)
    order = np.lexsort((smallest[high], smallest[low], -graph.similarity))
    low, high = low[order], high[order]
    _, first = np.unique(low * graph.nodes + high, return_index=True)
    first.sort()
    return low[first], high[first]


def _has_star(piece: Rows, low: Rows, high: Rows) -> npt.NDArray[np.bool_]:
    """For each node whether some node of its component is near all others of it."""
    n = len(piece)
    degree = np.bincount(low, minlength=n) + np.bincount(high, minlength=n)
    size = np.bincount(piece, minlength=n)
    found = np.zeros(n, bool)
    found[piece[degree == size[piece] - 1]] = True
    return found[piece]


def _pieces(n: int, low: Rows, high: Rows) -> Rows:
    """The number of each node's piece; edges are in the order in which they merge."""
    cost = np.arange(1, len(low) + 1, dtype=np.float64)  # distinct: the tree is one
    graph = sparse.coo_array((cost, (low, high)), shape=(n, n)).tocsr()
    tree = np.sort(sparse.csgraph.minimum_spanning_tree(graph).data).astype(np.int64) - 1
    linked_to, linked_at, first, parent, size = _dendrogram(n, low[tree], high[tree])
    merged = _merge_of(low, high, linked_to, linked_at)
    source, at = np.concatenate([low, high]), np.concatenate([merged, merged])
    order = np.lexsort((at, source))
    source, at = source[order], at[order]
    begins = np.searchsorted(source, np.arange(n))
    count = np.arange(1, len(at) + 1) - begins[source]  # edges of `source` up to here
    star = np.zeros(len(tree), bool)
    star[at[count == size[at] - 1]] = True
    piece = np.where(star, np.arange(len(tree)), -1)
    for merge in range(len(tree) - 1, -1, -1):  # from the whole to its parts
        if parent[merge] >= 0 and piece[parent[merge]] >= 0:
            piece[merge] = piece[parent[merge]]
    return np.where(piece[first] >= 0, piece[first], len(tree) + np.arange(n))


def _dendrogram(n: int, low: Rows, high: Rows) -> tuple[Rows, Rows, Rows, Rows, Rows]:
    """Merge tree edges in their order, the smaller cluster below the larger.

    For each node what it is linked to (-1 for a root) and at which merge, and its first merge; for
    each merge the next one of its cluster (-1 for the last) and its size.
    """
    linked_to, linked_at = [-1] * n, [_NEVER] * n
    first, members, top = [-1] * n, [1] * n, [-1] * n
    parent, size = [-1] * len(low), [0] * len(low)
    for merge, ends in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        roots = []
        for node in ends:
            root = node
            while linked_to[root] >= 0:  # at most log2(n) steps: links go to larger clusters
                root = linked_to[root]
            roots.append(root)
            if top[root] >= 0:
                parent[top[root]] = merge
            else:
                first[root] = merge
        below, above = roots if members[roots[0]] <= members[roots[1]] else roots[::-1]
        linked_to[below], linked_at[below] = above, merge
        members[above] += members[below]
        top[above], size[merge] = merge, members[above]
    found = (linked_to, linked_at, first, parent, size)
    return tuple(np.array(column, np.int64) for column in found)  # type: ignore[return-value]


def _merge_of(one: Rows, other: Rows, linked_to: Rows, linked_at: Rows) -> Rows:
    """The merge that brought the nodes one[i] and other[i] together: the last link between them."""
    one, other = one.copy(), other.copy()
    merged = np.full(len(one), -1)
    apart = np.flatnonzero(one != other)
    while len(apart):
        a, b = one[apart], other[apart]
        earlier = linked_at[a] < linked_at[b]
        moving = np.where(earlier, a, b)
        merged[apart] = linked_at[moving]
        one[apart] = np.where(earlier, linked_to[a], a)
        other[apart] = np.where(earlier, b, linked_to[b])
        apart = apart[one[apart] != other[apart]]
    return merged
