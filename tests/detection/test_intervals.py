from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detection.errors import MeasureError
from pipeline.detection.intervals import upper_bound, wilson

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
