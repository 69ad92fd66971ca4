"""Pairs as a graph on rows, where a class of exact copies is one node."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexes.checks import checked_ids, rows_of
from indexes.errors import VectorError
from indexes.join import Pairs
from indexes.metrics import Ids, Rows, Scores


@dataclass(frozen=True, eq=False)
class Graph:
    """`node_of` (n,) tells each row's node; edge i joins the nodes a[i] and b[i], which differ.

    An edge of any member of a class is one of the class; an edge inside a class is none.
    """

    node_of: Rows
    a: Rows
    b: Rows
    similarity: Scores

    @property
    def nodes(self) -> int:
        """How many nodes there are; they are counted from 0."""
        return int(self.node_of.max(initial=-1)) + 1

    def first_rows(self, ids: Ids, rank: npt.NDArray[np.number]) -> Rows:
        """For each node the row of its best-ranked member, ties by the smallest id."""
        order = np.lexsort((ids, rank, self.node_of))
        _, first = np.unique(self.node_of[order], return_index=True)
        return np.asarray(order[first])


def build_graph(ids: Ids, pairs: Pairs, class_of: Ids | None = None) -> Graph:
    """The graph of `pairs` on `ids` (n,); `class_of` (n,) labels classes of exact copies.

    Raises VectorError for an id that is unknown or given twice.
    """
    ids = checked_ids(ids, len(ids))
    if class_of is not None and len(class_of) != len(ids):
        raise VectorError(f"{len(ids)} ids need as many classes, got {len(class_of)}")
    _, node_of = np.unique(ids if class_of is None else class_of, return_inverse=True)
    ends = np.concatenate([pairs.id_a, pairs.id_b])
    node_a, node_b = np.split(node_of[rows_of(ends, ids)], 2)
    apart = node_a != node_b
    return Graph(node_of, node_a[apart], node_b[apart], pairs.similarity[apart])
