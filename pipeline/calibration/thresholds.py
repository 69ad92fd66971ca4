"""The least strict threshold at a stated precision, from pictures whose copies are known.

Over all pairs of the set, originals and edits alike,

    precision(t) = true(t) / (true(t) + false(t))       pairs at t or nearer
    t* = min {t : precision(t) >= p}

A pair is true if both show the same original. How many false pairs there are beside the true ones
depends on the set: false pairs grow with the square of its size, true ones with the number of
copies. So p holds for a set of this size and share of copies. What carries over to N pictures is
the rate of false pairs among pairs of different originals, times N (N - 1) / 2; its upper bound is
given, and with n originals cannot be below about 3 / (n (n - 1) / 2).

Pairs of one original's edits fall together, and so do those of two originals that look alike: one
such pair of pictures gives up to 17 x 17 false ones. The interval of the precision therefore counts
originals, not pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

import indexes
from indexes.binary import BITS
from indexes.checks import CODE_BYTES
from indexes.metrics import DECIMALS
from pipeline.detection.intervals import upper_bound, wilson
from pipeline.encoders import Metric

ORIGINAL = "original"
_ROWS_AT_ONCE = 512

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
_NO_PAIRS: tuple[Values, Rows] = (np.zeros(0), np.zeros((0, 2), np.int64))


@dataclass(frozen=True)
class Labelled:
    """Vectors of a set and what each row shows.

    `vectors` (n, d) unit float32 or (n, 32 k) uint8, k codes of which the nearest count, with
    `mirror` (32,) also each xor it; `original` (n,) numbers the picture that the row
    shows, `edit` (n,) names what was done to it ("original" for nothing, one such row an
    original); rows without `usable` are found by no search (no direction, a featureless hash).
    """

    vectors: npt.NDArray[np.float32] | npt.NDArray[np.uint8]
    metric: Metric
    original: npt.NDArray[np.int64]
    edit: npt.NDArray[np.str_]
    usable: npt.NDArray[np.bool_]
    mirror: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Rate:
    """hits of n, with the 95 % Wilson interval."""

    hits: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds of the rate."""
        return wilson(self.hits, self.n)


@dataclass(frozen=True)
class Operating:
    """What a threshold gives on the set. `similarity` is a cosine, or 1 - bits / 256.

    `precision_interval` takes as units the originals of which a true pair was found, and the pairs
    of different originals of which a false one was. `worst` lists those pairs with their largest
    similarity.
    """

    similarity: float
    true_pairs: int
    false_pairs: int
    originals_found: int
    worst: tuple[tuple[int, int, float], ...]
    n_originals: int
    recall: dict[str, Rate]

    @property
    def precision(self) -> float:
        """True among found pairs; 1 where nothing is found."""
        found = self.true_pairs + self.false_pairs
        return self.true_pairs / found if found else 1.0

    @property
    def precision_interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval over originals."""
        return wilson(self.originals_found, self.originals_found + len(self.worst))

    @property
    def false_rate_bound(self) -> float:
        """95 % upper bound of the rate of false pairs among pairs of different originals."""
        return upper_bound(len(self.worst), self.n_originals * (self.n_originals - 1) // 2)

    @property
    def mean_recall(self) -> float:
        """The mean over edits of the share of (original, edit) pairs found."""
        rates = [rate.hits / rate.n for rate in self.recall.values()]
        return float(np.mean(rates)) if rates else 0.0


@dataclass(frozen=True)
class Scores:
    """Scores of pairs and their rows (m, 2), descending.

    All true pairs are there, and every false pair at `floor` or nearer.
    """

    labelled: Labelled
    true: Values
    true_rows: Rows
    false: Values
    false_rows: Rows
    floor: float


def score(labelled: Labelled, keep_false: int) -> Scores:
    """Score all pairs of usable rows; of the false ones the `keep_false` nearest are enough."""
    rows = np.flatnonzero(labelled.usable)
    original = labelled.original[rows]
    true, false = [_NO_PAIRS], _NO_PAIRS
    floor = -np.inf
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        near = _similarity(labelled, rows[block], rows[start:])
        later = np.triu(np.ones(near.shape, bool), 1)
        same = original[block][:, None] == original[start:][None]
        true.append(_select(near, later & same, rows[block], rows[start:]))
        others = _select(near, later & ~same & (near >= floor), rows[block], rows[start:])
        false = _join([false, others])
        if len(false[0]) > keep_false:
            floor = float(np.partition(false[0], -keep_false)[-keep_false])
            false = false[0][false[0] >= floor], false[1][false[0] >= floor]
    return Scores(labelled, *_descending(_join(true)), *_descending(false), floor)


def _select(
    near: Values, chosen: npt.NDArray[np.bool_], rows_a: Rows, rows_b: Rows
) -> tuple[Values, Rows]:
    a, b = np.nonzero(chosen)
    return near[a, b], np.stack([rows_a[a], rows_b[b]], axis=1)


def _join(parts: Sequence[tuple[Values, Rows]]) -> tuple[Values, Rows]:
    values, rows = zip(*parts, strict=True)
    return np.concatenate(values), np.concatenate(rows)


def _descending(pairs: tuple[Values, Rows]) -> tuple[Values, Rows]:
    order = np.argsort(-pairs[0], kind="stable")
    return pairs[0][order], pairs[1][order]


def most_false(labelled: Labelled, precision: float) -> int:
    """How many false pairs a threshold of this precision may let through at most."""
    _, sizes = np.unique(labelled.original[labelled.usable], return_counts=True)
    pairs = int((sizes * (sizes - 1) // 2).sum())
    return int(pairs * (1 - precision) / precision) + 1


def least_strict(scores: Scores, precision: float) -> float | None:
    """The smallest true score at which the precision is as stated; None where it is at none."""
    candidates = np.unique(scores.true)
    candidates = candidates[candidates >= scores.floor]
    found = len(scores.true) - np.searchsorted(scores.true[::-1], candidates)
    wrong = len(scores.false) - np.searchsorted(scores.false[::-1], candidates)
    good = candidates[found / (found + wrong) >= precision]
    return float(good[0]) if len(good) else None


def operate(scores: Scores, similarity: float) -> Operating:
    """What the threshold `similarity` gives. Raises ValueError below what was kept."""
    if similarity < scores.floor:
        raise ValueError(f"false pairs were kept from {scores.floor} on, asked at {similarity}")
    labelled = scores.labelled
    hit = scores.true >= similarity
    found = np.unique(labelled.original[scores.true_rows[hit][:, 0]])
    wrong = scores.false >= similarity
    worst: dict[tuple[int, int], float] = {}
    for (a, b), value in zip(
        labelled.original[scores.false_rows[wrong]].tolist(),
        scores.false[wrong].tolist(),
        strict=True,
    ):
        worst.setdefault((min(a, b), max(a, b)), value)  # descending: the first is the largest
    return Operating(
        similarity,
        int(hit.sum()),
        int(wrong.sum()),
        len(found),
        tuple((a, b, value) for (a, b), value in worst.items()),
        len(np.unique(labelled.original)),
        _recall(scores, similarity),
    )


def _recall(scores: Scores, similarity: float) -> dict[str, Rate]:
    labelled = scores.labelled
    edits = labelled.edit[scores.true_rows]
    of_original = (edits == ORIGINAL).any(axis=1) & (scores.true >= similarity)
    names = np.where(edits[:, 0] == ORIGINAL, edits[:, 1], edits[:, 0])[of_original]
    order: Sequence[str] = list(dict.fromkeys(labelled.edit.tolist()))
    return {
        name: Rate(int((names == name).sum()), int((labelled.edit == name).sum()))
        for name in order
        if name != ORIGINAL
    }


def _similarity(
    labelled: Labelled, rows_a: npt.NDArray[np.int64], rows_b: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    a, b = labelled.vectors[rows_a], labelled.vectors[rows_b]
    if labelled.metric == "hamming":
        pairs = product(_codes(a), _codes(b, labelled.mirror))
        return 1 - np.minimum.reduce([_distances(*pair) for pair in pairs]) / BITS
    wide_a, wide_b = (indexes.unit(rows.astype(np.float32)).astype(np.float64) for rows in (a, b))
    return np.round(wide_a @ wide_b.T, DECIMALS)


def _codes(
    rows: npt.NDArray[Any], mirror: npt.NDArray[np.uint8] | None = None
) -> list[npt.NDArray[np.uint8]]:
    """The codes (n, 32) that lie side by side in each row, and with `mirror` their images."""
    codes = np.split(rows.astype(np.uint8), rows.shape[1] // CODE_BYTES, axis=1)
    return codes if mirror is None else [*codes, *(code ^ mirror for code in codes)]


def _distances(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    bits_a, bits_b = (np.unpackbits(codes, axis=1).astype(np.float32) for codes in (a, b))
    ones = bits_a.sum(axis=1)[:, None] + bits_b.sum(axis=1)[None]
    return (ones - 2 * bits_a @ bits_b.T).astype(np.float64)
