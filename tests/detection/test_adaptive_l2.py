import numpy as np
import pytest

from pipeline.detection.adaptive_l2 import adaptive_l2, nearest_ratio
from pipeline.detection.errors import MeasureError


def test_by_hand():
    neighbours = np.array([[0.1, 0.5, 0.6], [0.4, 0.4, 0.4]])
    # Both rows have the mean 0.4, so the denominator is 0.2.
    assert adaptive_l2(np.array([0.1, 0.4]), neighbours) == pytest.approx([0.5, 2.0])
    assert adaptive_l2(np.array([0.1, 0.4]), neighbours, alpha=1) == pytest.approx([0.25, 1.0])


def test_each_row_has_its_own_mean():
    rng = np.random.default_rng(0)
    nearest, neighbours = rng.random(7), rng.random((7, 50))
    expected = [x / (0.5 * sum(row) / 50) for x, row in zip(nearest, neighbours, strict=True)]
    assert adaptive_l2(nearest, neighbours) == pytest.approx(expected)


def test_order_of_neighbours_does_not_matter_beyond_rounding():
    row = np.random.default_rng(1).random((1, 50))
    assert adaptive_l2(np.array([0.2]), row) == pytest.approx(
        adaptive_l2(np.array([0.2]), row[:, ::-1])
    )


def test_fifty_copies_hide_a_memorized_image():
    """Why the caller gives one distance a group: with its copies in S the ratio is 2."""
    copies, groups = np.full((1, 50), 0.03), np.array([[0.03] + [0.4] * 49])
    assert adaptive_l2(np.array([0.03]), copies)[0] == pytest.approx(2.0)
    assert adaptive_l2(np.array([0.03]), groups)[0] < 1


def test_zero_distances():
    assert adaptive_l2(np.zeros(1), np.zeros((1, 50)))[0] == 2.0
    assert adaptive_l2(np.zeros(1), np.full((1, 50), 0.3))[0] == 0.0
    assert nearest_ratio(np.array([0.0, 0.0, 0.1]), np.array([0.0, 0.2, 0.0])).tolist() == [
        1.0,
        0.0,
        np.inf,
    ]


def test_nearest_ratio_by_hand():
    ratio = nearest_ratio(np.array([0.05, 0.2]), np.array([0.2, 0.2]))
    assert ratio == pytest.approx([0.25, 1.0])


@pytest.mark.parametrize(
    ("nearest", "neighbours"),
    [
        (np.zeros(2), np.zeros((3, 5))),
        (np.zeros(2), np.zeros(2)),
        (np.zeros(1), np.zeros((1, 0))),
        (np.array([np.nan]), np.ones((1, 5))),
        (np.array([-0.1]), np.ones((1, 5))),
        (np.array([0.1]), np.full((1, 5), np.inf)),
    ],
)
def test_refuses(nearest, neighbours):
    with pytest.raises(MeasureError):
        adaptive_l2(nearest, neighbours)


def test_ratio_refuses_shapes_that_differ():
    with pytest.raises(MeasureError, match="one shape"):
        nearest_ratio(np.zeros(2), np.zeros(3))
