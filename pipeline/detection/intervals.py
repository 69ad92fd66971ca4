"""Intervals of a rate of `hits` among n.

    Wilson 1927:           (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),  p = hits / n
    Clopper-Pearson 1934:  upper = the rate at which <= hits happens with probability 1 - confidence
    Newcombe 1998:         of p - q, with Wilson's (l, u) of each, method 10 of the paper:
                           d - sqrt((p - l_p)^2 + (u_q - q)^2),  d + sqrt((u_p - p)^2 + (q - l_q)^2)

With no hits the exact upper bound is 1 - (1 - confidence)^(1/n), about 3 / n at 95 %: the rule of
three.
"""

from math import hypot

from scipy.stats import binomtest

import indexes
from pipeline.detection.errors import MeasureError


def wilson(hits: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided score interval; (0, 1) for n = 0. Raises MeasureError unless hits <= n."""
    _check(hits, n, confidence)
    return indexes.wilson(hits, n, confidence=confidence)


def upper_bound(hits: int, n: int, *, confidence: float = 0.95) -> float:
    """The exact one-sided upper bound; 1 for hits = n. Raises MeasureError unless hits <= n."""
    _check(hits, n, confidence)
    if hits == n:
        return 1.0
    return float(binomtest(hits, n, alternative="less").proportion_ci(confidence).high)


def difference(
    hits: int, n: int, other_hits: int, other_n: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Newcombe's two-sided interval of hits / n - other_hits / other_n, of independent samples.

    (-1, 1) where either n is 0. Raises MeasureError unless hits <= n on both sides.
    """
    low, high = wilson(hits, n, confidence=confidence)
    other_low, other_high = wilson(other_hits, other_n, confidence=confidence)
    if not n or not other_n:
        return -1.0, 1.0
    rate, other = hits / n, other_hits / other_n
    below = hypot(rate - low, other_high - other)
    above = hypot(high - rate, other - other_low)
    return max(-1.0, rate - other - below), min(1.0, rate - other + above)


def _check(hits: int, n: int, confidence: float) -> None:
    if not 0 <= hits <= n:
        raise MeasureError(f"rate: expected 0 <= hits <= n, got {hits} of {n}")
    if not 0 < confidence < 1:
        raise MeasureError(f"confidence: expected between 0 and 1, got {confidence}")
