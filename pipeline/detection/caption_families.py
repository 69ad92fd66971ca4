"""Families of captions that say nearly the same: the unit that is drawn, held out and counted.

    J(a, b) = |a & b| / |a | b|  of the captions' sets of words; a family is a connected component
    of the graph "edge iff J >= 0.5"

Lists of memorized captions repeat themselves (one shop's carpets, 149 times of 500): captions of a
family are one test, not many. The join is exact: sets that are so alike share one of the rarest
|a| - ceil(J |a|) + 1 words of either (prefix filter, Bayardo et al. 2007), so only those are
compared.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from pipeline.detection.errors import MeasureError

MIN_JACCARD = 0.5
_ROWS = 1024
_PAIRS = 1 << 18
_SLACK = 1e-9  # of a product of a share and a count

Labels = npt.NDArray[np.int64]


def caption_families(captions: Sequence[str], *, min_jaccard: float = MIN_JACCARD) -> Labels:
    """The family of each of n captions, (n,), numbered from 0 in the order of their first caption.

    Words are letters and digits, case-folded; a caption without any is a word of its own.
    Raises MeasureError unless 0 < min_jaccard <= 1.
    """
    if not 0 < min_jaccard <= 1:
        raise MeasureError(f"min_jaccard: expected above 0 and at most 1, got {min_jaccard}")
    sets = [words(caption) for caption in captions]
    distinct = {item: place for place, item in enumerate(dict.fromkeys(sets))}
    if not distinct:
        return np.zeros(0, np.int64)
    joined = _components(list(distinct), min_jaccard)
    labels = joined[[distinct[item] for item in sets]]
    _, first, place = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place].astype(np.int64)


def words(caption: str) -> frozenset[str]:
    """The set of words of a caption."""
    folded = unicodedata.normalize("NFKC", caption).casefold()
    return frozenset(re.findall(r"\w+", folded)) or frozenset([" " + folded.strip()])


def _components(sets: list[frozenset[str]], min_jaccard: float) -> Labels:
    uses = Counter(word for item in sets for word in item)
    rank = {word: place for place, word in enumerate(sorted(uses, key=lambda w: (uses[w], w)))}
    ranked = [sorted(rank[word] for word in item) for item in sets]
    prefixes = [row[: len(row) - math.ceil(min_jaccard * len(row) - _SLACK) + 1] for row in ranked]
    rows = _incidence(ranked, len(rank))
    sizes = np.array([len(row) for row in ranked])
    edges = [np.zeros((2, 0), np.int64)]
    for a, b in _candidates(_incidence(prefixes, len(rank))):
        common = np.asarray(rows[a].multiply(rows[b]).sum(axis=1)).ravel()
        alike = common >= min_jaccard * (sizes[a] + sizes[b] - common) - _SLACK
        edges.append(np.stack([a[alike], b[alike]]))
    a, b = np.concatenate(edges, axis=1)
    graph = sparse.coo_array((np.ones(len(a), np.int8), (a, b)), (len(sets), len(sets)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _candidates(prefixes: sparse.csr_array) -> Iterator[tuple[Labels, Labels]]:
    """Pairs a < b that share a word of their prefixes, some at a time."""
    transposed = prefixes.T.tocsc()
    for start in range(0, prefixes.shape[0], _ROWS):
        shared = (prefixes[start : start + _ROWS] @ transposed).tocoo()
        a, b = shared.row.astype(np.int64) + start, shared.col.astype(np.int64)
        a, b = a[a < b], b[a < b]
        for begin in range(0, len(a), _PAIRS):
            yield a[begin : begin + _PAIRS], b[begin : begin + _PAIRS]


def _incidence(rows: list[list[int]], columns: int) -> sparse.csr_array:
    ends = np.cumsum([0, *(len(row) for row in rows)])
    indices = np.concatenate([np.array(row, np.int64) for row in rows])
    data = np.ones(len(indices), np.int32)
    return sparse.csr_array((data, indices, ends), shape=(len(rows), columns))
