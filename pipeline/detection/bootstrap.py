"""Intervals by resampling what was drawn independently: pictures, or captions.

    interval     units are drawn with replacement; the quantiles α and 1 - α of the draws,
                 α = Φ(-√(n / (n - 1)) t),  t the 97.5 % quantile of Student's t, n - 1 degrees
                 (Hesterberg 2015, The American Statistician 69:371, the expanded percentile
                 interval): the plain quantiles of few units are too near each other
    mean ratio   (1/L) Σ_l  Σ_i a_li / Σ_i b_li, a unit i having a pair (a, b) at each level l

A sum over units is divided by another, not each a by its b: where some b are nearly 0, as the loss
of a memorized picture is, quotients of their own would say nothing of the others.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from scipy.stats import t as student

from pipeline.detection.errors import MeasureError

DRAWS = 4000
FEWEST = 5
"""Units below which there is no interval."""

Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A value of n units with its 95 % interval, which is None where they are too few."""

    value: float
    n: int
    interval: tuple[float, float] | None


def resampled(n: int, draws: int = DRAWS) -> Counts:
    """How often each of n units is in each draw, (draws, n); the same every time."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws)


def interval_of(drawn: Numbers, n: int) -> tuple[float, float] | None:
    """The 95 % interval from the statistic of each draw (k,), of n units; None for too few."""
    if n < FEWEST or not len(drawn):
        return None
    tail = norm.cdf(-sqrt(n / (n - 1)) * student.ppf(0.975, n - 1))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def mean_ratio(above: Numbers, below: Numbers) -> Estimate | None:
    """The ratio of `above` to `below`, each (n,) or (levels, n); None where it is undefined.

    Draws in which a sum of `below` is 0 are left out. Raises MeasureError on shapes that differ,
    on no units, and on numbers negative or not finite.
    """
    a, b = np.atleast_2d(above).astype(np.float64), np.atleast_2d(below).astype(np.float64)
    if a.shape != b.shape or a.ndim != 2 or not a.size:
        raise MeasureError(f"ratio: expected two equal shapes, got {above.shape}, {below.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all() and min(a.min(), b.min()) >= 0):
        raise MeasureError("ratio: expected finite numbers that are not negative")
    n = a.shape[1]
    if not b.sum(axis=1).all():
        return None
    value = float((a.sum(axis=1) / b.sum(axis=1)).mean())
    times = resampled(n)
    bottom = times @ b.T
    usable = bottom.all(axis=1)
    drawn = ((times @ a.T)[usable] / bottom[usable]).mean(axis=1)
    return Estimate(value, n, interval_of(drawn, n))
