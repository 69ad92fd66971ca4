"""Connected components of a graph whose edges come in batches: more of them than memory holds.

Every id points to an id of its component that is not larger; an id that points to itself is a root.
A batch is contracted to the roots of its ends, its components are those of a graph in memory, and
each root is hooked to the smallest of its component (Shiloach and Vishkin 1982, J. Algorithms 3:
hooking to the smaller root, pointer jumping). One pass over the edges is enough, and when it is
done the root of an id is the smallest id of its component, so that no order of ids, edges or
batches matters.

A batch makes a path at most one step longer. Paths are shortened to one step (pointer jumping, log2
of the longest path in rounds) whenever as many edges have come as there are ids, so that a chain
whose edges come in the worst order takes time n log n, too.

Memory: 8 bytes an id and a batch; the pointers (4 bytes an id below 2^31, else 8) are in memory, or
in a file that is mapped.
"""

from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from scipy import sparse

from indexes.checks import checked_ids, places_of
from indexes.errors import VectorError
from indexes.metrics import Ids, Rows

_ROWS_AT_ONCE = 1 << 20
_Pointers = npt.NDArray[np.signedinteger]


class ComponentLabels:
    """Labels of `ids` (n,), ascending; pointers lie in a new file at `scratch`, else in memory."""

    def __init__(self, ids: Ids, scratch: Path | None = None) -> None:
        if len(ids) and not (np.diff(ids) > 0).all():
            raise VectorError("ids must ascend, each once; sort them")
        self._ids = ids
        dtype = np.int32 if len(ids) < 2**31 else np.int64
        self._points: _Pointers
        if scratch is None or not len(ids):
            self._points = np.arange(len(ids)).astype(dtype)
        else:
            self._points = np.lib.format.open_memmap(scratch, "w+", dtype, (len(ids),))
            for start in range(0, len(ids), _ROWS_AT_ONCE):
                end = min(start + _ROWS_AT_ONCE, len(ids))
                self._points[start:end] = np.arange(start, end)
        self._since = 0

    def __enter__(self) -> "ComponentLabels":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._points  # a mapped file can be removed from now on

    def join(self, id_a: Ids, id_b: Ids) -> None:
        """Add the edges (id_a[i], id_b[i]). Raises VectorError for an unknown id."""
        rows_a, rows_b = places_of(id_a, self._ids), places_of(id_b, self._ids)
        apart = rows_a != rows_b
        roots, ends = np.unique(
            np.concatenate([self._roots(rows_a[apart]), self._roots(rows_b[apart])]),
            return_inverse=True,
        )
        if len(roots):
            half = len(ends) // 2
            first = smallest_mates(len(roots), ends[:half], ends[half:])
            self._points[roots] = roots[first]  # ascending: the first is the smallest
        self._since += len(id_a)
        if self._since >= len(self._ids):
            self._shorten()

    def block(self, start: int, end: int) -> Ids:
        """The smallest id of the component of each of ids[start:end]."""
        if self._since:
            self._shorten()
        return np.asarray(self._ids[self._points[start:end]], np.int64)

    def labels(self) -> Ids:
        """The smallest id of each id's component (n,)."""
        return self.block(0, len(self._ids))

    def _roots(self, rows: Rows) -> Rows:
        """The root of each row; the paths that are walked get half as long."""
        distinct, back = np.unique(rows, return_inverse=True)
        current = distinct.copy()
        moving = np.arange(len(distinct))
        while len(moving):
            here = current[moving]
            next_ = self._points[self._points[here]]
            self._points[here] = next_
            moving = moving[next_ != here]
            current[moving] = next_[next_ != here]
        return np.asarray(current[back], np.int64)

    def _shorten(self) -> None:
        """Pointer jumping until all rows point to their root."""
        self._since, changed = 0, True
        while changed:
            changed = False
            for start in range(0, len(self._points), _ROWS_AT_ONCE):
                block = slice(start, start + _ROWS_AT_ONCE)
                old = np.asarray(self._points[block])
                new = self._points[old]
                changed |= bool((new != old).any())
                self._points[block] = new


def connected_components(ids: Ids, id_a: Ids, id_b: Ids) -> Ids:
    """The smallest id of each id's component in the graph with edges (id_a[i], id_b[i])."""
    ids = checked_ids(ids, len(ids))
    order = np.argsort(ids)
    with ComponentLabels(ids[order]) as labels:
        labels.join(id_a, id_b)
        found = np.empty(len(ids), np.int64)
        found[order] = labels.labels()
    return found


def smallest_mates(n: int, rows_a: Rows, rows_b: Rows) -> Rows:
    """For each of n nodes the smallest node of its component."""
    graph = sparse.coo_array((np.ones(len(rows_a), np.int8), (rows_a, rows_b)), shape=(n, n))
    count, component = sparse.csgraph.connected_components(graph, directed=False)
    smallest = np.full(count, n)
    np.minimum.at(smallest, component, np.arange(n))
    return np.asarray(smallest[component])
