from itertools import product

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from pipeline.detection.errors import MeasureError
from pipeline.detection.kid import distance, floor, kid, polynomial_kernel


def _kernel(u, v):
    return (sum(float(a) * float(b) for a, b in zip(u, v, strict=True)) / len(u) + 1) ** 3


def _brute(x, y, x_units, y_units):
    def mean(a, b, own, other):
        pairs = product(range(len(a)), range(len(b)))
        values = [_kernel(a[i], b[j]) for i, j in pairs if own[i] != other[j]]
        return sum(values) / len(values)

    xx, yy = mean(x, x, x_units, x_units), mean(y, y, y_units, y_units)
    return xx + yy - 2 * mean(x, y, x_units, y_units)


def _sets(seed, n=12, m=12, d=5, shift=0.3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal((m, d)) + shift


def _drawings(rng, captions=12, seeds=6, d=8, *, spread=0.5):
    """Drawings of each caption around a place of its own, scaled to length √d."""
    places = np.random.default_rng(99).standard_normal((captions, 1, d))
    found = (places + spread * rng.standard_normal((captions, seeds, d))).reshape(-1, d)
    units = np.repeat(np.arange(captions), seeds)
    return found / np.linalg.norm(found, axis=1, keepdims=True) * np.sqrt(d), units


def test_the_kernel_is_cubic():
    x, y = _sets(0, 3, 4)
    assert polynomial_kernel(x, y)[1, 2] == pytest.approx(_kernel(x[1], y[2]))


def test_without_units_it_is_torchmetrics_estimate():
    x, y = _sets(1)
    expected = float(poly_mmd(torch.tensor(x), torch.tensor(y)))
    assert kid(x, y) == pytest.approx(expected, rel=1e-6)


def test_without_units_it_is_the_definition_for_sets_of_unequal_size():
    x, y = _sets(2, 7, 10)
    expected = _brute(x, y, list(range(7)), list(range(100, 110)))
    assert kid(x, y) == pytest.approx(expected, rel=1e-6)


def test_with_units_pairs_of_a_unit_are_left_out():
    x, y = _sets(3, 9, 9)
    x_units, y_units = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3]), np.array([0, 1, 1, 1, 2, 2, 3, 3, 3])
    expected = _brute(x, y, x_units.tolist(), y_units.tolist())
    assert kid(x, y, x_units, y_units) == pytest.approx(expected, rel=1e-6)


def test_distance_is_kid_of_the_paired_drawings():
    before, units = _drawings(np.random.default_rng(0))
    after, _ = _drawings(np.random.default_rng(1))
    found = distance(before, after + 0.2, units)
    assert found.kid.value == pytest.approx(kid(before, after + 0.2, units, units), abs=1e-9)
    assert (found.kid.n, found.drawings) == (12, 72)


def test_sets_of_one_model_are_at_0_on_average():
    """Captions that draw nearly the same with every seed would pull it elsewhere, were pairs of
    one caption counted."""
    values, naive = [], []
    for seed in range(60):
        x, units = _drawings(np.random.default_rng((seed, 0)), spread=0.3)
        y, _ = _drawings(np.random.default_rng((seed, 1)), spread=0.3)
        values.append(kid(x, y, units, units))
        naive.append(kid(x, y))
    error = np.std(values) / np.sqrt(60)
    assert abs(np.mean(values)) < 3 * error
    assert abs(np.mean(naive)) > 5 * np.std(naive) / np.sqrt(60)


def test_two_seed_sets_are_in_the_floor_and_another_model_is_above():
    before, units = _drawings(np.random.default_rng(0))
    again, _ = _drawings(np.random.default_rng(1))
    moved = before.copy()
    moved[:, 0] += 1.0
    same, other = distance(before, again, units), distance(before, moved, units)
    assert not same.above
    assert same.floor[0] < same.kid.value < same.floor[1]
    assert other.above and not other.within
    assert other.kid.interval[0] < other.kid.value < other.kid.interval[1]


def test_a_model_that_draws_the_same_is_within():
    before, units = _drawings(np.random.default_rng(0))
    found = distance(before, before.copy(), units)
    assert found.kid.value == 0 and found.kid.interval == (0, 0)
    assert found.within and not found.above


def test_models_that_differ_by_seeds_alone_are_rarely_above():
    before, units = _drawings(np.random.default_rng(0))
    above = [
        distance(before, _drawings(np.random.default_rng(9 + seed))[0], units).above
        for seed in range(40)
    ]
    assert sum(above) <= 1


def test_the_floor_is_the_spread_of_halves():
    before, units = _drawings(np.random.default_rng(0))
    low, high = floor(before, units)
    rng, values = np.random.default_rng(7), []
    for _ in range(200):
        first = np.concatenate(
            [rng.permutation(np.flatnonzero(units == unit))[:3] for unit in range(12)]
        )
        mask = np.isin(np.arange(len(units)), first)
        values.append(kid(before[mask], before[~mask], units[mask], units[~mask]))
    expected = np.quantile(values, [0.025, 0.975])
    width = expected[1] - expected[0]
    assert (low, high) == pytest.approx(tuple(expected), abs=0.15 * width)
    assert low < 0 < high


def test_the_order_of_rows_does_not_matter():
    before, units = _drawings(np.random.default_rng(0))
    after, _ = _drawings(np.random.default_rng(1))
    order = np.random.default_rng(2).permutation(len(units))
    found, shuffled = (
        distance(before[rows], after[rows], units[rows]) for rows in (slice(None), order)
    )
    assert shuffled.kid.value == pytest.approx(found.kid.value, abs=2e-9)
    assert shuffled.kid.interval == pytest.approx(found.kid.interval, abs=2e-9)


def test_too_few_captions_or_drawings_cannot_tell():
    before, units = _drawings(np.random.default_rng(0), captions=4)
    few = distance(before, before + 3, units)
    assert few.kid.interval is None and few.floor is None
    assert not few.above and not few.within
    once, own = _drawings(np.random.default_rng(0), seeds=1)
    single = distance(once, once + 3, own)
    assert single.floor is None and not single.above and not single.within
    odd, units = _drawings(np.random.default_rng(0), seeds=3)
    assert floor(odd, units) is not None


def test_what_it_is_not_defined_on():
    x, y = _sets(0)
    units = np.arange(12)
    for call in (
        lambda: kid(x, y[:, :3]),
        lambda: kid(x[0], y),
        lambda: kid(np.full_like(x, np.nan), y),
        lambda: kid(x[:1], y),
        lambda: kid(x, y, np.zeros(12, int), units),
        lambda: distance(x, y[:5], units),
        lambda: distance(x, y, units[:5]),
        lambda: distance(x, y, np.zeros(12, int)),
        lambda: distance(x, np.full_like(y, np.inf), units),
    ):
        with pytest.raises(MeasureError, match="kid"):
            call()
