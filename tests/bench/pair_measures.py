"""What a list of pairs and a choice of kept files are worth on a set whose copies are known."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import indexes
from pipeline.calibration.edits import EDITS
from pipeline.calibration.thresholds import ORIGINAL

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Pairs of rows (m, 2), each once, smaller row first; `kept` (k,) are the rows that survive."""

    pairs: Rows
    kept: Rows


@dataclass(frozen=True)
class Measures:
    """Counts over the set.

    `look_alike` pairs show pictures that the user calls the same thing: neither true nor false.
    `recall` is by edit, over (original, edit) pairs. `uncovered` files were dropped though no kept
    one is paired with them; of `lost` pictures (of `distinct`) no version is kept. `confused` lists
    the false pairs of distinct pictures, the most frequent first.
    """

    true: int
    false: int
    look_alike: int
    recall: dict[str, float]
    kept: int
    uncovered: int
    lost: int
    distinct: int
    confused: list[tuple[int, int, int]]

    @property
    def precision(self) -> float:
        """True pairs among those that are one or the other; 1 where nothing was found."""
        judged = self.true + self.false
        return self.true / judged if judged else 1.0

    @property
    def mean_recall(self) -> float:
        """The mean over edits."""
        return float(np.mean(list(self.recall.values()))) if self.recall else 0.0


def unique_pairs(pairs: Iterable[Sequence[int]]) -> Rows:
    """Each pair once, as (m, 2), the smaller row first; pairs of a row with itself are left out."""
    rows = np.sort(np.array(list(pairs), np.int64).reshape(-1, 2), axis=1)
    return np.unique(rows[rows[:, 0] < rows[:, 1]], axis=0)


def one_a_component(pairs: Rows, n: int) -> Rows:
    """The smallest row of each connected component of n rows: what tools without survivors keep."""
    rows = np.arange(n)
    return np.unique(indexes.connected_components(rows, pairs[:, 0], pairs[:, 1]))


def with_exact_copies(exact: Rows, others: Rows, n: int) -> Rows:
    """All pairs that a list implies whose exact copies are stars and of which only one is paired.

    What is near a picture is as near to its exact copies.
    """
    rows = np.arange(n)
    centre = indexes.connected_components(rows, exact[:, 0], exact[:, 1])
    order = np.argsort(centre, kind="stable")
    centres, first = np.unique(centre[order], return_index=True)
    members = dict(zip(centres.tolist(), np.split(order, first[1:]), strict=True))
    linked = np.unique(np.sort(centre[others], axis=1), axis=0).tolist()
    pairs = [(a, b) for one, two in linked for a in members[one] for b in members[two]]
    pairs += [(a, b) for same in members.values() for a in same for b in same if a < b]
    return unique_pairs(pairs)


def measure(
    found: Found, original: Rows, edit: npt.NDArray[np.str_], same: Iterable[tuple[int, int]] = ()
) -> Measures:
    """Judge by what each row shows: `original` (n,) and `edit` (n,).

    `same` are pairs of originals that show the same thing, and so do those that they chain.
    """
    distinct = np.arange(int(original.max()) + 1)
    alike = unique_pairs(same)
    shown = indexes.connected_components(distinct, alike[:, 0], alike[:, 1])
    a, b = original[found.pairs[:, 0]], original[found.pairs[:, 1]]
    false = shown[a] != shown[b]
    between = np.sort(np.stack([a, b], axis=1)[false], axis=1)
    confused, count = np.unique(between, axis=0, return_counts=True)
    worst = np.argsort(-count, kind="stable")
    is_kept = np.zeros(len(original), bool)
    is_kept[found.kept] = True
    covered = is_kept.copy()
    for one, two in ((0, 1), (1, 0)):
        covered[found.pairs[is_kept[found.pairs[:, one]], two]] = True
    return Measures(
        true=int((a == b).sum()),
        false=int(false.sum()),
        look_alike=int((~false & (a != b)).sum()),
        recall=_recall(edit[found.pairs[a == b]], edit),
        kept=int(is_kept.sum()),
        uncovered=int((~covered).sum()),
        lost=len(np.unique(shown)) - len(np.unique(shown[original[is_kept]])),
        distinct=len(np.unique(shown)),
        confused=[(*confused[i].tolist(), int(count[i])) for i in worst],
    )


def _recall(pairs: npt.NDArray[np.str_], edit: npt.NDArray[np.str_]) -> dict[str, float]:
    of_original = pairs[(pairs == ORIGINAL).any(axis=1)]
    names = np.where(of_original[:, 0] == ORIGINAL, of_original[:, 1], of_original[:, 0])
    order = [name for name in EDITS if (edit == name).any()]
    return {name: float((names == name).sum() / (edit == name).sum()) for name in order}
