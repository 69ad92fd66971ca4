"""Hubs: so many near-duplicates of one vector that all pairs of them would not fit on any disk.

A million slightly different encodings of one "no image" picture have 5e11 pairs. Angles obey the
triangle inequality, so that rows within half of the threshold's angle of a leader,

    s(leader, x) >= cos(arccos(t) / 2) = sqrt((1 + t) / 2),

are all near-duplicates of each other at threshold t: the star of the leader says as much as all
their pairs. Leaders are sought among a sample of the ids, which a hub that matters cannot escape:
of n rows a hub of h puts h m / n into a sample of m. They depend on the ids, the vectors and the
seed, never on the order of rows or on cells. Then one pass over all vectors finds who belongs to
whom, n L inner products for L leaders; a leader with too few rows is none.

Between two members s(x, y) >= cos(arccos s(leader, x) + arccos s(leader, y)), which is what is said
of them without a comparison.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexes.metrics import (
    DECIMALS,
    ROUNDING,
    AnyVectors,
    Ids,
    Metric,
    Rows,
    Scores,
    cosine_error,
    score_rows,
)

SAMPLE = 1 << 13
_ROWS_AT_ONCE = 1 << 15
_BITS = 256
_LEAST_SEEN = 3  # members of a hub in the sample, its leader among them


@dataclass(frozen=True, eq=False)
class Hubs:
    """Members of hubs, each of one: leader, member and their similarity; a leader is a member."""

    leader: Ids
    member: Ids
    similarity: Scores

    def __len__(self) -> int:
        return len(self.member)


def hub_radius(threshold: float, metric: Metric) -> float:
    """The least similarity of a member to its leader; cosines are rounded, so a little more.

    `threshold` is a cosine, or for "hamming" a number of bits; the similarity of two codes is
    1 - bits / 256.
    """
    if metric == "hamming":
        return 1 - (threshold // 2) / _BITS
    return float(np.sqrt((1 + threshold) / 2)) + ROUNDING


def similarity_bound(one: Scores, other: Scores, metric: Metric) -> Scores:
    """The least similarity of two members whose similarities to their leader are given."""
    if metric == "hamming":
        return one + other - 1
    angle = np.arccos(np.clip(one, -1, 1)) + np.arccos(np.clip(other, -1, 1))
    return np.round(np.cos(np.minimum(angle, np.pi)), DECIMALS)


def hub_leaders(
    sample: AnyVectors, population: int, threshold: float, hub_size: int, metric: Metric
) -> Rows:
    """Rows of `sample` (m, d), unit vectors or codes in the order of their ids, that may lead.

    The one with most of the others within the radius comes first, ties by the first row; those are
    then taken away. `population` is the number of rows that the sample was drawn from, `hub_size`
    the number of members above which a hub is one.
    """
    expected = hub_size * len(sample) / max(population, 1)
    least = hub_size + 1 if len(sample) == population else max(_LEAST_SEEN, expected / 2)
    radius = hub_radius(threshold, metric)
    crowd = np.zeros(len(sample), np.int64)
    for start in range(0, len(sample), 1 << 10):
        block = slice(start, start + (1 << 10))
        crowd[block] = (_similarities(sample[block], sample, metric) >= radius).sum(axis=1)
    rows = np.flatnonzero(crowd >= least)
    near = _similarities(sample[rows], sample[rows], metric) >= radius
    np.fill_diagonal(near, True)
    left, leaders = near.sum(axis=1), []
    while len(rows) and left.max() >= least:
        best = int(left.argmax())
        leaders.append(int(rows[best]))
        gone = np.flatnonzero(near[best])
        left -= near[:, gone].sum(axis=1)
        near[:, gone] = False
        left[gone] = 0
    return np.array(leaders, np.int64)


def nearest_leader(
    vectors: AnyVectors, leaders: AnyVectors, threshold: float, metric: Metric
) -> tuple[Rows, Scores]:
    """For each of `vectors` (n, d) the row of its leader, -1 for none, and their similarity.

    A row belongs to the nearest leader, ties by the first.
    """
    found, scores = np.full(len(vectors), -1, np.int64), np.zeros(len(vectors))
    radius = hub_radius(threshold, metric)
    margin = cosine_error(vectors.shape[1]) if metric == "cosine" else 0.0
    for start in range(0, len(vectors) if len(leaders) else 0, _ROWS_AT_ONCE):
        nearness = _similarities(vectors[start : start + _ROWS_AT_ONCE], leaders, metric)
        best = nearness.argmax(axis=1)
        rows = np.flatnonzero(nearness[np.arange(len(best)), best] >= radius - margin)
        exact = score_rows(metric, vectors, leaders, start + rows, best[rows])
        exact = exact if metric == "cosine" else 1 - exact / _BITS
        inside = exact >= radius
        found[start + rows[inside]] = best[rows[inside]]
        scores[start + rows[inside]] = exact[inside]
    return found, scores


def make_hubs(
    leader: Ids, member: Ids, similarity: Scores, hub_size: int, known: Ids | None = None
) -> Hubs:
    """The hubs of more than `hub_size` members, and of `known` leaders, by leader and member."""
    order = np.lexsort((member, leader))
    leader, member, similarity = leader[order], member[order], similarity[order]
    _, place, sizes = np.unique(leader, return_inverse=True, return_counts=True)
    large = sizes[place] > hub_size
    if known is not None:
        large |= np.isin(leader, known)
    return Hubs(leader[large], member[large], similarity[large])


def _similarities(a: AnyVectors, b: AnyVectors, metric: Metric) -> npt.NDArray[np.float32]:
    """Of each of `a` with each of `b`, in float32: exact for codes, within an error for vectors."""
    if metric == "cosine":
        return np.asarray(a @ b.T, np.float32)
    bits = np.zeros((len(a), len(b)), np.uint16)
    words_a, words_b = (np.ascontiguousarray(x).view(np.uint64) for x in (a, b))
    for word in range(words_a.shape[1]):
        bits += np.bitwise_count(words_a[:, word, None] ^ words_b[None, :, word])
    return np.asarray(1 - bits / np.float32(_BITS), np.float32)
