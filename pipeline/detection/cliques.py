"""The largest clique of generations that are mutually near (Carlini et al. 2023, Stable Diffusion).

Graph: one node a generation, an edge iff d(i, j) < epsilon. A model that replays a training image
gives one large clique whatever the seed; ordinary captions give none.

Search: a greedy clique of size s comes first; the largest lies in the (s-1)-core, so all else is
peeled away. Then Bron-Kerbosch with pivoting (Tomita et al. 2006), cut where the members so far
and the colours of the candidates, greedily coloured, are fewer than the best so far. Node sets are
the bits of Python integers. The problem is NP-hard: the search stops after `cap` visited nodes (not
after a time, so that two machines agree) and says so; what it returns is then a clique, but perhaps
not the largest.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.detection.errors import MeasureError

_DECIMALS = 6


@dataclass(frozen=True)
class Clique:
    """Members in ascending order, their mean pairwise distance (nan below two members).

    `capped`: the search was cut short, a larger or tighter clique may exist.
    """

    members: tuple[int, ...]
    mean_distance: float
    capped: bool


def largest_clique(
    distances: npt.NDArray[np.float64], epsilon: float, *, cap: int = 500_000
) -> Clique:
    """The largest clique of the graph "edge iff distance < epsilon" of n nodes.

    `distances`: (n, n), symmetric, not negative; rounded to 6 decimals first. Ties of size go to
    the smallest mean distance, then to the lexicographically first members.
    Raises MeasureError on a matrix that is not such.
    """
    rounded = _checked(distances)
    neighbours = _graph(rounded, epsilon)
    best = _Best(rounded)
    best.offer(_greedy_clique(neighbours))
    core = _peel(neighbours, len(best.members) - 1)
    capped = _search(neighbours, core, best, cap)
    size = len(best.members)
    mean = best.total / math.comb(size, 2) if size > 1 else math.nan
    return Clique(best.members, mean, capped)


def _checked(distances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise MeasureError(f"distances: expected a square matrix, got shape {distances.shape}")
    if not np.isfinite(distances).all() or (distances < 0).any():
        raise MeasureError("distances: expected finite values >= 0")
    if not np.allclose(distances, distances.T, rtol=0, atol=10.0**-_DECIMALS):
        raise MeasureError("distances: expected a symmetric matrix")
    return np.minimum(distances, distances.T).astype(np.float64).round(_DECIMALS)


def _graph(distances: npt.NDArray[np.float64], epsilon: float) -> list[int]:
    """The neighbours of each node, as bits."""
    near = distances < epsilon
    np.fill_diagonal(near, False)
    return [sum(1 << int(j) for j in np.flatnonzero(row)) for row in near]


class _Best:
    """The best clique so far: larger, then tighter, then lexicographically first."""

    def __init__(self, distances: npt.NDArray[np.float64]) -> None:
        self._distances = distances
        self.members: tuple[int, ...] = ()
        self.total = 0.0

    def offer(self, clique: int) -> None:
        members = tuple(_nodes(clique))
        if len(members) < len(self.members):
            return
        between = self._distances[np.ix_(members, members)]
        # fsum rounds once, so that the sum does not depend on the order of the nodes.
        total = math.fsum(between[np.triu_indices(len(members), 1)])
        if (-len(members), total, members) < (-len(self.members), self.total, self.members):
            self.members, self.total = members, total


def _greedy_clique(neighbours: list[int]) -> int:
    clique, candidates = 0, (1 << len(neighbours)) - 1
    while candidates:
        node = _best_connected(neighbours, candidates, candidates)
        clique |= 1 << node
        candidates &= neighbours[node]
    return clique


def _peel(neighbours: list[int], k: int) -> int:
    """The k-core: what is left after nodes with fewer than k neighbours left are removed."""
    core, weak = (1 << len(neighbours)) - 1, -1
    while weak:
        weak = sum(1 << v for v in _nodes(core) if (neighbours[v] & core).bit_count() < k)
        core &= ~weak
    return core


def _search(neighbours: list[int], core: int, best: _Best, cap: int) -> bool:
    """Offer every clique of `core` that can be the best; True if the cap was hit."""
    stack = [(0, core, 0)]
    for _ in range(cap):
        if not stack:
            return False
        clique, candidates, excluded = stack.pop()
        if not candidates and not excluded:
            best.offer(clique)
        needed = len(best.members) - clique.bit_count()
        if candidates and _can_reach(neighbours, candidates, needed):
            stack += reversed(_children(neighbours, clique, candidates, excluded))
    return bool(stack)


def _children(
    neighbours: list[int], clique: int, candidates: int, excluded: int
) -> list[tuple[int, int, int]]:
    pivot = _best_connected(neighbours, candidates | excluded, candidates)
    children = []
    for node in _nodes(candidates & ~neighbours[pivot]):
        near, bit = neighbours[node], 1 << node
        children.append((clique | bit, candidates & near, excluded & near))
        candidates, excluded = candidates & ~bit, excluded | bit
    return children


def _can_reach(neighbours: list[int], candidates: int, size: int) -> bool:
    """Can they hold a clique of `size`? Its nodes have colours of their own in any colouring."""
    colours = 0
    while candidates and colours < size:
        colours += 1
        free = candidates
        while free:
            bit = free & -free
            candidates ^= bit
            free &= ~(neighbours[bit.bit_length() - 1] | bit)
    return colours >= size


def _best_connected(neighbours: list[int], among: int, candidates: int) -> int:
    return max(_nodes(among), key=lambda node: (neighbours[node] & candidates).bit_count())


def _nodes(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
