"""The measures that the benchmark prints, on sets small enough to count by hand."""

import itertools

import numpy as np
import pytest

from tests.bench.pair_measures import (
    Found,
    measure,
    one_a_component,
    unique_pairs,
    with_exact_copies,
)

# rows: two versions of picture 0 and its original, two of picture 1, picture 2 alone
ORIGINAL = np.array([0, 0, 0, 1, 1, 2])
EDIT = np.array(["original", "exact", "gray", "gray", "original", "original"])


def found(pairs: list[tuple[int, int]], kept: list[int]) -> Found:
    return Found(unique_pairs(pairs), np.array(kept))


def test_everything_found_and_one_kept_of_each() -> None:
    got = measure(found([(0, 1), (0, 2), (1, 2), (4, 3)], [0, 4, 5]), ORIGINAL, EDIT)
    assert (got.true, got.false, got.kept, got.uncovered, got.lost) == (4, 0, 3, 0, 0)
    assert got.recall == {"exact": 1.0, "gray": 1.0}
    assert got.precision == got.mean_recall == 1.0


def test_recall_counts_pairs_with_the_original_only() -> None:
    got = measure(found([(1, 2), (3, 4)], [0, 1, 2, 4, 5]), ORIGINAL, EDIT)
    assert got.recall == {"exact": 0.0, "gray": 0.5}


def test_a_false_pair_that_drops_a_picture_loses_it() -> None:
    got = measure(found([(2, 5), (0, 1)], [0, 2, 3, 4]), ORIGINAL, EDIT)
    assert (got.true, got.false, got.precision) == (1, 1, 0.5)
    assert (got.lost, got.distinct, got.confused) == (1, 3, [(0, 2, 1)])


def test_a_dropped_file_without_a_kept_partner_is_uncovered() -> None:
    chain = found([(0, 1), (1, 2)], [0, 3, 4, 5])
    assert measure(chain, ORIGINAL, EDIT).uncovered == 1


def test_pictures_called_the_same_are_neither_true_nor_false() -> None:
    pairs = found([(2, 5), (4, 5)], [0, 1, 2, 3, 4])
    got = measure(pairs, ORIGINAL, EDIT, [(2, 0)])
    assert (got.look_alike, got.false, got.lost, got.distinct) == (1, 1, 0, 2)


def test_pairs_of_a_star_are_completed() -> None:
    exact, others = unique_pairs([(1, 0), (1, 3)]), unique_pairs([(1, 2), (4, 5)])
    got = with_exact_copies(exact, others, 6)
    want = {*itertools.combinations((0, 1, 3), 2), (0, 2), (1, 2), (2, 3), (4, 5)}
    assert {tuple(pair) for pair in got.tolist()} == want


def test_one_row_of_each_component_is_kept() -> None:
    assert one_a_component(unique_pairs([(3, 1), (1, 2)]), 5).tolist() == [0, 1, 4]


@pytest.mark.parametrize("pairs", [[], [(1, 1)]])
def test_no_pairs(pairs: list[tuple[int, int]]) -> None:
    got = measure(Found(unique_pairs(pairs), np.arange(6)), ORIGINAL, EDIT)
    assert (got.true, got.precision, got.mean_recall, got.uncovered) == (0, 1.0, 0.0, 0)
