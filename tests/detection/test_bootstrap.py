import numpy as np
import pytest
from scipy.stats import bootstrap, norm, t

from pipeline.detection.bootstrap import FEWEST, interval_of, mean_ratio, resampled
from pipeline.detection.errors import MeasureError


def _losses(rng, n, levels=3, rise=1.2):
    below = rng.lognormal(0, 0.5, (levels, n))
    return below * rise * rng.lognormal(0, 0.1, (levels, n)), below


def test_the_value_is_the_mean_over_levels_of_ratios_of_sums():
    above, below = np.array([[1.0, 3.0], [10.0, 0.0]]), np.array([[1.0, 1.0], [4.0, 4.0]])
    found = mean_ratio(above, below)
    assert found.value == pytest.approx((4 / 2 + 10 / 8) / 2)
    assert (found.n, found.interval) == (2, None)  # two pictures bound nothing


def test_the_interval_is_scipys_at_the_expanded_confidence():
    above, below = _losses(np.random.default_rng(1), 40)

    def statistic(rows, axis):
        assert axis == -1
        return (above[:, rows].sum(axis=-1) / below[:, rows].sum(axis=-1)).mean(axis=0)

    confidence = 1 - 2 * norm.cdf(-np.sqrt(40 / 39) * t.ppf(0.975, 39))
    expected = bootstrap(
        (np.arange(40),), statistic, vectorized=True, method="percentile", n_resamples=20_000,
        confidence_level=confidence, rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    low, high = mean_ratio(above, below).interval
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.05 * width)
    assert high == pytest.approx(expected.high, abs=0.05 * width)


@pytest.mark.parametrize("n", [6, 12, 40])
def test_it_covers_the_true_ratio_however_few_the_pictures(n):
    rng = np.random.default_rng(n)
    true = 1.2 * np.exp(0.1**2 / 2)
    intervals = [mean_ratio(*_losses(rng, n)).interval for _ in range(200)]
    covered = np.mean([low <= true <= high for low, high in intervals])
    assert 0.9 <= covered <= 0.995


def test_levels_of_a_picture_stay_together():
    """Pictures that differ a lot, but at all levels alike, are as uncertain as at one level."""
    above, below = _losses(np.random.default_rng(3), 12, levels=1)
    one, many = mean_ratio(above, below), mean_ratio(above.repeat(6, 0), below.repeat(6, 0))
    assert many.interval == pytest.approx(one.interval)


def test_no_change_is_no_change():
    below = np.random.default_rng(0).random((2, 9))
    found = mean_ratio(below, below)
    assert found.value == 1 and found.interval == (1, 1)


def test_a_ratio_to_nothing_is_undefined():
    assert mean_ratio(np.ones(6), np.zeros(6)) is None
    one = mean_ratio(np.ones(6), np.array([1.0, 0, 0, 0, 0, 0]))
    assert one.value == 6 and np.isfinite(one.interval).all()


def test_units_below_the_fewest_have_no_interval():
    assert interval_of(np.arange(10.0), FEWEST - 1) is None
    low, high = interval_of(np.arange(1000.0), 10_000)
    assert (low, high) == pytest.approx((0.025 * 999, 0.975 * 999), abs=0.5)


def test_draws_hold_every_unit_once_on_average():
    times = resampled(7, 5000)
    assert (times.sum(axis=1) == 7).all()
    assert times.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)


@pytest.mark.parametrize(
    ("above", "below"),
    [
        (np.ones(3), np.ones(4)),
        (np.ones((2, 0)), np.ones((2, 0))),
        (np.ones((1, 1, 1)), np.ones((1, 1, 1))),
        (np.array([1.0, np.nan]), np.ones(2)),
        (np.ones(2), np.array([1.0, np.inf])),
        (np.array([1.0, -1.0]), np.ones(2)),
    ],
)
def test_what_it_is_not_defined_on(above, below):
    with pytest.raises(MeasureError, match="ratio"):
        mean_ratio(above, below)
