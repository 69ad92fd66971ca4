"""All pairs of binary codes within a Hamming radius, without comparing all with all.

    h(a, b) <= r  and  sum_k (t_k + 1) > r   =>   h(a, b) <= t_k on chunk k, for some k

for any disjoint chunks k of the bits: were each off by more than t_k, r would be exceeded. With
equal t this is multi-index hashing (Norouzi, Punjani, Fleet 2012, "Fast Search in Hamming Space
with Multi-Index Hashing"). So whoever looks up, in a table of each of m = ceil((r + 1) / (t + 1))
chunks, all keys that differ from a code's own in t bits or fewer has seen every neighbour: the
candidates are complete, and a distance decides on each. Nothing is approximate.

Which bits make a chunk changes the time only. They are dealt by variance, like cards, so that bits
that are the same in all codes do not end up in one chunk, whose table would have one entry.

Where codes crowd together a lookup finds more than it saves. How many candidates a code has is
known from the tables' sizes before one is looked at; where these would take longer than all later
codes, the code is left to the caller, which compares it with all of them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations, pairwise

import faiss
import numpy as np
import numpy.typing as npt

from indexes.checks import CODE_BYTES
from indexes.metrics import Codes, Rows

VISIT = 32.0
"""Time to look up one key, as a multiple of one comparison of the exact scan."""
CANDIDATE = 14.0
"""Time to look at one candidate; measured, as the one above, by tests.bench.pdq."""

HIT = 28.0
"""What more it takes where the candidate is a neighbour, which most chunks find again. Those beyond
twice as many as uniform codes would have are taken for such."""

_BITS = 8 * CODE_BYTES
_MOST_FLIPS = 2
_MOST_KEY_BITS = (
    16  # these sort by radix: wider ones take twice as long to sort, and pay back later
)
_LOOKUPS_AT_ONCE = 1 << 17
_CANDIDATES_AT_ONCE = 1 << 13  # arrays of 64 KiB: larger ones are mapped anew each time
_PENDING = 1 << 18
_SAMPLED_CODES = 1 << 14
_QUERIES_AT_ONCE = 1 << 16
STORED_AT_ONCE = 1 << 22
"""Codes that one set of tables holds."""

Words = npt.NDArray[np.uint64]
Keys = npt.NDArray[np.uint16]
Places = npt.NDArray[np.int32]
Found = tuple[Rows, Rows]
_NONE: Found = (np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Tables:
    """How many chunks there are, bits of a key, and how many of them may differ."""

    chunks: int
    key_bits: int
    flips: int

    @property
    def keys(self) -> int:
        """Keys that differ in `flips` bits or fewer: sum_i C(b, i)."""
        return sum(math.comb(self.key_bits, i) for i in range(self.flips + 1))

    def cost(self, n: int) -> float:
        """Time for one code among n uniform ones, in comparisons of the exact scan."""
        return self.chunks * self.keys * (VISIT + CANDIDATE * n / 2**self.key_bits)


def cheapest_tables(radius: int, n: int) -> Tables | None:
    """The tables for n codes at a radius; None where comparing with all of them is faster."""
    choices = [
        Tables(chunks, bits, flips)
        for flips in range(min(radius, _MOST_FLIPS) + 1)
        for chunks in [-(-(radius + 1) // (flips + 1))]
        for bits in range(1, min(_BITS // chunks, _MOST_KEY_BITS) + 1)
    ]
    best = min(choices, key=lambda tables: tables.cost(n), default=None)
    return best if best is not None and best.cost(n) < n / 2 else None  # later ones are half of all


def later_neighbours(codes: Codes, asking: Rows, radius: int) -> tuple[Rows, Rows, Rows]:
    """Rows i of `asking`, ascending, and j > i of `codes` (n, 32), within the radius, each once.

    Returns i, j, and the rows of `asking` that were left out, none of whose pairs are among the
    first two. Beside the codes, memory is bounded by a block of them and by what is found.
    """
    found: list[tuple[Rows, Rows, Rows]] = []
    for start in range(0, len(asking), _QUERIES_AT_ONCE):
        block = asking[start : start + _QUERIES_AT_ONCE]
        tables = cheapest_tables(radius, min(len(codes) - int(block[0]), STORED_AT_ONCE))
        if tables is None:
            found.append((*_NONE, block))
        else:
            found.append(_neighbours_of(codes, block, radius, tables))
    rows, partners, crowded = zip((*_NONE, _NONE[0]), *found, strict=True)
    return np.concatenate(rows), np.concatenate(partners), np.concatenate(crowded)


def _neighbours_of(
    codes: Codes, asking: Rows, radius: int, tables: Tables
) -> tuple[Rows, Rows, Rows]:
    found, crowded = [_NONE], np.zeros(len(asking), bool)
    with ThreadPoolExecutor(faiss.omp_get_max_threads()) as pool:
        for start in range(int(asking[0]), len(codes), STORED_AT_ONCE):
            stored = codes[start : start + STORED_AT_ONCE]
            search = _Search(codes[asking], stored, asking + 1 - start, radius, tables)
            crowded |= search.crowded()
            for number in range(tables.chunks):
                work = search.chunk(number, np.flatnonzero(~crowded))
                found += [(rows, start + places) for rows, places in pool.map(*work)]
    rows, partners = _joined(found)
    kept = ~crowded[rows]
    return asking[rows[kept]], partners[kept], asking[crowded]


class _Search:
    """Queries i and stored rows j >= first[i], both (n, 32), and the keys of their chunks."""

    def __init__(
        self, queries: Codes, stored: Codes, first: Rows, radius: int, tables: Tables
    ) -> None:
        chunks = _dealt_bits(stored, tables)
        self._own_keys = [_keys(queries, bits) for bits in chunks]
        self._other_keys = [_keys(stored, bits) for bits in chunks]
        self._own, self._other = _columns(queries), _columns(stored)
        self._first, self._radius, self._tables = first, radius, tables
        self._flips = _flips(tables)

    def crowded(self) -> npt.NDArray[np.bool_]:
        """Queries that it is faster to compare with all later ones."""
        candidates = np.zeros(len(self._first), np.int64)
        for own, other in zip(self._own_keys, self._other_keys, strict=True):
            sizes = _sizes(other, self._tables.key_bits)
            for flip in self._flips:
                candidates += sizes[own ^ flip]
        tables, n = self._tables, self._other.shape[1]
        lookups = tables.chunks * tables.keys
        likely = np.maximum(candidates - 2 * lookups * n / 2**tables.key_bits, 0)
        cost = VISIT * lookups + CANDIDATE * candidates + HIT * likely
        return cost > np.maximum(n - self._first, 0)

    def chunk(self, number: int, active: Rows) -> tuple[Callable[[Rows], Found], list[Rows]]:
        """The search through one chunk's table, and the blocks of queries to call it with."""
        keys = self._own_keys[number]
        table = _Table(self._other_keys[number], self._tables.key_bits)
        words = self._other.take(table.rows, axis=1)
        active = active[np.argsort(keys[active], kind="stable")]  # neighbours look up neighbours
        size = max(_LOOKUPS_AT_ONCE // self._tables.keys, 1)

        def search(block: Rows) -> Found:
            wanted = self._flips[:, None] ^ keys[block]
            own, first = self._own.take(block, axis=1), self._first[block]
            new, pending, waiting = [], [_NONE], 0
            for rows, places in _candidates(table.sizes[wanted], table.starts[wanted]):
                near, at = _within(own, words, rows, places, self._radius)
                partners = table.rows[at]
                counts = partners >= first[near]
                pending.append((block[near[counts]], partners[counts]))
                waiting += len(near)
                if waiting > _PENDING:
                    new.append(self._new(number, *_joined(pending)))
                    pending, waiting = [_NONE], 0
            return _joined([*new, self._new(number, *_joined(pending))])

        return search, [active[start : start + size] for start in range(0, len(active), size)]

    def _new(self, number: int, rows: Rows, partners: Rows) -> Found:
        """The pairs that no earlier chunk has found: each is to come out once."""
        earlier = zip(self._own_keys[:number], self._other_keys[:number], strict=True)
        for own, other in earlier:
            differing = np.bitwise_count(own.take(rows) ^ other.take(partners))
            new = np.flatnonzero(differing > self._tables.flips)
            rows, partners = rows[new], partners[new]
        return rows, partners


class _Table:
    """Rows in the order of their keys, and where those of each key are."""

    def __init__(self, keys: Keys, key_bits: int) -> None:
        self.rows = np.argsort(keys, kind="stable")
        self.sizes = _sizes(keys, key_bits)
        self.starts = (np.cumsum(self.sizes, dtype=np.int64) - self.sizes).astype(np.int32)


def _candidates(sizes: Places, starts: Places) -> Iterator[tuple[Places, Places]]:
    """The row of each lookup (keys, rows) and the place of each of its finds, a block at a time."""
    hits = np.flatnonzero(sizes)
    rows = hits % sizes.shape[1]
    counts, begins = sizes.ravel()[hits], starts.ravel()[hits]
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(_CANDIDATES_AT_ONCE, total, _CANDIDATES_AT_ONCE))
    edges = np.unique(np.r_[0, cuts + 1, len(ends)])
    for start, end in pairwise(edges.tolist()):
        some = slice(start, end)
        yield np.repeat(rows[some], counts[some]), _runs(begins[some], counts[some])


def _runs(begins: Places, counts: Places) -> Places:
    """begins[0], begins[0] + 1, … (counts[0] of them), begins[1], …; every count is positive."""
    steps = np.ones(counts.sum(), np.int32)
    steps[0] = begins[0]
    steps[np.cumsum(counts)[:-1]] = begins[1:] - begins[:-1] - counts[:-1] + 1
    return np.cumsum(steps, dtype=np.int32, out=steps)


def _within(
    own: Words, other: Words, rows: Places, places: Places, radius: int
) -> tuple[Places, Places]:
    """The pairs of columns, row of `own` and place in `other`, that are within the radius."""
    distance = np.zeros(len(rows), np.uint8)  # no tables pay at a radius of 128 or more
    for half in (slice(0, 2), slice(2, 4)):  # the first tells nearly all strangers
        for a, b in zip(own[half], other[half], strict=True):
            distance += np.bitwise_count(_take(a, rows) ^ _take(b, places))
        near = np.flatnonzero(distance <= radius)
        rows, places, distance = rows[near], places[near], distance[near]
    return rows, places


def _joined(found: Sequence[Found]) -> Found:
    rows, partners = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(partners)


def _take(column: Words, rows: Rows | Places) -> Words:
    """column[rows] without a second look at whether the rows are inside."""
    return column.take(rows, mode="clip")


def _sizes(keys: Keys, key_bits: int) -> Places:
    return np.bincount(keys, minlength=1 << key_bits).astype(np.int32)


def _columns(codes: Codes) -> Words:
    return np.ascontiguousarray(codes.view(np.uint64).T)


def _keys(codes: Codes, bits: Rows) -> Keys:
    keys: Keys = np.zeros(len(codes), np.uint16)
    for place, bit in enumerate(bits.tolist()):
        value = (codes[:, bit // 8] >> (7 - bit % 8)) & 1
        keys |= value.astype(np.uint16) << np.uint16(place)
    return keys


def _flips(tables: Tables) -> Keys:
    """What turns a key into each of those that differ from it in `flips` bits or fewer."""
    places = range(tables.key_bits)
    chosen = [some for k in range(tables.flips + 1) for some in combinations(places, k)]
    return np.array([sum(1 << place for place in some) for some in chosen], np.uint16)


def _dealt_bits(codes: Codes, tables: Tables) -> list[Rows]:
    """The bits of each chunk's key, by descending variance dealt to one chunk after the other."""
    step = max(len(codes) // _SAMPLED_CODES, 1)
    share = np.unpackbits(codes[::step], axis=1).mean(axis=0)
    order = np.argsort(-share * (1 - share), kind="stable")
    dealt = order[: tables.chunks * tables.key_bits].reshape(tables.key_bits, tables.chunks)
    return list(np.ascontiguousarray(dealt.T))
