from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detection.errors import MeasureError
from pipeline.detection.intervals import difference, upper_bound, wilson

Z = 1.959963984540054


@st.composite
def counts(draw):
    n = draw(st.integers(1, 60))
    return draw(st.integers(0, n)), n


@given(counts())
def test_wilson_bounds_solve_the_score_equation(count):
    """The bounds are the rates p0 with (p - p0)^2 = z^2 p0 (1 - p0) / n."""
    hits, n = count
    low, high = wilson(hits, n)
    for bound in (low, high):
        assert (hits / n - bound) ** 2 == pytest.approx(Z**2 * bound * (1 - bound) / n, abs=1e-12)
    assert 0 <= low <= hits / n <= high <= 1


def test_wilson_by_hand():
    # 5 of 500, the usual "1 % false positives": 0.43 % to 2.32 %
    assert wilson(5, 500) == pytest.approx((0.00428, 0.02319), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, Z**2 / (10 + Z**2)))
    assert wilson(0, 0) == (0.0, 1.0)


@given(counts())
def test_wilson_is_symmetric_and_narrows_with_confidence(count):
    hits, n = count
    low, high = wilson(hits, n)
    mirrored = wilson(n - hits, n)
    assert mirrored == pytest.approx((1 - high, 1 - low))
    narrow = wilson(hits, n, confidence=0.5)
    assert low <= narrow[0] and narrow[1] <= high


@given(counts())
def test_upper_bound_leaves_five_percent_to_the_binomial(count):
    hits, n = count
    bound = upper_bound(hits, n)
    tail = sum(comb(n, k) * bound**k * (1 - bound) ** (n - k) for k in range(hits + 1))
    assert tail == pytest.approx(0.05 if hits < n else 1.0, abs=1e-9)


@pytest.mark.parametrize("n", [1, 30, 500, 10_000])
def test_rule_of_three(n):
    assert upper_bound(0, n) == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-9)
    assert n < 30 or upper_bound(0, n) == pytest.approx(3 / n, rel=0.06)


@pytest.mark.parametrize(("hits", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_refuses(hits, n, confidence):
    with pytest.raises(MeasureError):
        wilson(hits, n, confidence=confidence)
    with pytest.raises(MeasureError):
        upper_bound(hits, n, confidence=confidence)


@pytest.mark.parametrize(
    ("counts", "interval"),
    [
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((6, 7, 2, 7), (0.0582, 0.8062)),
        ((5, 56, 0, 29), (-0.0381, 0.1926)),
        ((0, 10, 0, 20), (-0.1611, 0.2775)),
        ((0, 10, 0, 10), (-0.2775, 0.2775)),
        ((10, 10, 0, 20), (0.6791, 1.0)),
        ((10, 10, 0, 10), (0.6075, 1.0)),
    ],
)
def test_difference_is_method_10_of_newcombes_table(counts, interval):
    """Newcombe 1998, table II, 95 %."""
    assert difference(*counts) == pytest.approx(interval, abs=5e-5)


@given(counts(), counts())
def test_difference_holds_the_estimate_and_turns_with_its_sides(first, second):
    low, high = difference(*first, *second)
    assert low <= first[0] / first[1] - second[0] / second[1] <= high
    assert difference(*second, *first) == pytest.approx((-high, -low))


def test_difference_covers_the_truth():
    """Exact coverage by enumeration of both binomials, which Newcombe puts near 95 %."""
    n, m, p, q = 30, 20, 0.3, 0.1
    covered = sum(
        comb(n, i) * p**i * (1 - p) ** (n - i) * comb(m, j) * q**j * (1 - q) ** (m - j)
        for i in range(n + 1)
        for j in range(m + 1)
        if difference(i, n, j, m)[0] <= p - q <= difference(i, n, j, m)[1]
    )
    assert 0.93 < covered < 0.98


def test_difference_without_a_sample_is_unknown():
    assert difference(0, 0, 3, 4) == (-1.0, 1.0)
    assert difference(3, 4, 0, 0) == (-1.0, 1.0)
    with pytest.raises(MeasureError):
        difference(3, 2, 0, 1)
