"""Is a caption memorized, after h hits in n drawings? The probability behind stopping early.

A caption reproduces a training picture in a share p of its drawings. Captions are of three kinds:

    none        p <= 0.05
    partial     p between
    memorized   p >= 0.5

and the shares of a kind follow a Beta distribution, so that its hits are beta-binomial:

    P(h | n, kind) = C(n, h) B(h + a, n - h + b) / B(a, b)

With the prior weights w the posterior of a kind is w P(h | n, kind) over their sum (Bayes). A
detector's score s, of which the captions of pictures seen once have median m and median absolute
deviation d, adds z slope + intercept to the log-odds of memorized against none, z = (s - m) / d:
scores of different models are comparable only in units of their own controls. A test that stops as
soon as the posterior is clear is Wald's sequential test (1945), with a prior.
"""

from dataclasses import dataclass
from math import exp

import numpy as np
from scipy.stats import betabinom

from pipeline.detection.errors import MeasureError

NONE, PARTIAL, MEMORIZED = range(3)
_MOST_LOG_ODDS = 6.0  # a score alone never settles it: a caption of 400 to 1 is still drawn
_LEAST_DEVIATION = 1e-12


@dataclass(frozen=True)
class Belief:
    """Prior weights of the kinds, the Beta parameters of their shares, and what a score is worth.

    The defaults were fitted on planted models (README, "Benchmarks"); `weights` say nothing of a
    caption.
    """

    weights: tuple[float, float, float] = (0.45, 0.1, 0.45)
    alpha: tuple[float, float, float] = (0.3, 1.5, 6.0)
    beta: tuple[float, float, float] = (30.0, 3.5, 0.8)
    slope: float = 0.5
    intercept: float = -1.5

    def __post_init__(self) -> None:
        if min(*self.weights, *self.alpha, *self.beta) <= 0:
            raise MeasureError("belief: weights and Beta parameters are above 0")


@dataclass(frozen=True)
class Reference:
    """A detector's scores on captions of pictures seen once: median, median absolute deviation."""

    centre: float
    deviation: float

    @classmethod
    def of(cls, scores: "np.typing.ArrayLike") -> "Reference":
        """From scores (n,); raises MeasureError for none and for values not finite."""
        values = np.asarray(scores, np.float64)
        if not len(values) or not np.isfinite(values).all():
            raise MeasureError(f"reference: {len(values)} scores; one at least, all finite")
        centre = float(np.median(values))
        return cls(centre, float(np.median(np.abs(values - centre))))

    def standardize(self, score: float) -> float:
        """How many deviations above the median of controls."""
        return (score - self.centre) / max(self.deviation, _LEAST_DEVIATION)


def log_odds(z: float | None, belief: Belief) -> float:
    """What a standardized score adds to the log-odds of memorized against none; None: nothing."""
    if z is None:
        return 0.0
    return float(np.clip(belief.slope * z + belief.intercept, -_MOST_LOG_ODDS, _MOST_LOG_ODDS))


def posterior(
    hits: int, n: int, belief: Belief, *, z: float | None = None
) -> tuple[float, float, float]:
    """P(none), P(partial), P(memorized) after `hits` in `n` drawings and a score, if any.

    Raises MeasureError unless 0 <= hits <= n.
    """
    if not 0 <= hits <= n:
        raise MeasureError(f"posterior: {hits} hits of {n}")
    likelihood = betabinom.pmf(hits, n, np.array(belief.alpha), np.array(belief.beta))
    half = exp(log_odds(z, belief) / 2)  # partial lies between the two
    joint = likelihood * np.array(belief.weights) * np.array([1 / half, 1.0, half])
    none, partial, memorized = (joint / joint.sum()).tolist()
    return none, partial, memorized


def confidence(hits: int, n: int, belief: Belief, *, found: bool, z: float | None = None) -> float:
    """The probability that a verdict is right, of a caption that is memorized or is not.

    Partial captions, of which either verdict is half true, are left out of it.
    """
    none, _, memorized = posterior(hits, n, belief, z=z)
    right = memorized if found else none
    return right / (none + memorized)
