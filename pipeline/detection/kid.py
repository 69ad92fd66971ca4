"""KID: how far two sets of pictures are apart in a descriptor, beside what chance makes of it.

    k(u, v) = (u·v / d + 1)³
    KID     = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)          over pairs of other units

(Binkowski et al. 2018, section 4: the unbiased estimator of the squared maximum mean discrepancy;
it may be negative.) Where every picture is a unit of its own that is theirs. Here x and y are
drawings of the same captions, and a caption, or the picture that it is of, is the unit: two of its
drawings are alike whichever model drew them, so pairs of one unit are left out on all three sides.
Then the expectation is 0 for two sets drawn by one model, however many seeds a unit has.

    interval   units are resampled (pipeline.detection.bootstrap)
    floor      KID between one half of the drawings of each unit and the other, one model's, in
               random halves: 2.5 % and 97.5 % of them. Half as many drawings scatter more, so the
               floor is on the wide side

Descriptors of unit length are to be scaled by √d first, so that u·v / d is their cosine: as they
are, it would be next to 0, and k all but linear.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.detection.bootstrap import FEWEST, Estimate, interval_of, resampled
from pipeline.detection.errors import MeasureError

SPLITS = 1000
_AT_ONCE = 500
_DECIMALS = 9  # what is left of a float64 sum when equal sets are compared

Vectors = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.float64]
Units = npt.NDArray[np.int64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Distance:
    """KID between two sets of n drawings each, and the floor; None where there are too few.

    `kid.n` counts the units.
    """

    kid: Estimate
    drawings: int
    floor: Interval | None

    @property
    def above(self) -> bool:
        """Whether all of the interval is above the floor, and above 0."""
        if self.kid.interval is None or self.floor is None:
            return False
        return self.kid.interval[0] > max(self.floor[1], 0.0)

    @property
    def within(self) -> bool:
        """Whether none of the interval is above the floor."""
        if self.kid.interval is None or self.floor is None:
            return False
        return self.kid.interval[1] <= self.floor[1]


def polynomial_kernel(x: Vectors, y: Vectors) -> Numbers:
    """k of each of x (n, d) with each of y (m, d), (n, m) in float64."""
    similar = x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1
    return np.asarray(similar**3)


def kid(
    x: Vectors, y: Vectors, x_units: Units | None = None, y_units: Units | None = None
) -> float:
    """KID of x (n, d) and y (m, d); without units (n,) and (m,) each picture is one of its own.

    Raises MeasureError on shapes that do not fit, vectors not finite, and fewer than two units.
    """
    own = x_units is None or y_units is None
    units = np.arange(len(x) + len(y)) if own else np.concatenate([x_units, y_units])
    pairs = _Pairs(np.concatenate([_checked(x), _checked(y, x.shape[1])]), units)
    first = np.arange(len(x) + len(y)) < len(x)
    if min(len(np.unique(units[first])), len(np.unique(units[~first]))) < 2:
        raise MeasureError("kid: expected two units or more on both sides")
    return float(pairs.between(first[None], ~first[None])[0])


def distance(before: Vectors, after: Vectors, units: Units) -> Distance:
    """KID of drawings `after` to those `before`, (n, d) each, and the floor of `before`.

    Row i of both has the unit i. Raises MeasureError as `kid` does.
    """
    if before.shape != after.shape or units.shape != before.shape[:1]:
        raise MeasureError(f"kid: {before.shape}, {after.shape} and units {units.shape}")
    names, place = np.unique(units, return_inverse=True)
    n = len(names)
    if n < 2:
        raise MeasureError("kid: expected two units or more")
    blocks = _Blocks(_checked(before), _checked(after), place)
    value = float(_of_draws(blocks, np.ones((1, n), np.int64))[0])
    drawn = _of_draws(blocks, resampled(n))
    return Distance(Estimate(value, n, interval_of(drawn, n)), len(units), floor(before, units))


def floor(vectors: Vectors, units: Units) -> Interval | None:
    """What 95 % of random halves of the drawings (n, d) of each unit give; the same every time.

    None where fewer than 5 units have two drawings. Of an odd number one is left out.
    """
    generator = np.random.default_rng(0)
    names, sizes = np.unique(units, return_counts=True)
    halved = [np.flatnonzero(units == name) for name in names[sizes > 1]]
    if len(halved) < FEWEST:
        return None
    first = np.zeros((SPLITS, len(units)), bool)
    second = np.zeros_like(first)
    for split in range(SPLITS):
        for rows in halved:
            shuffled = generator.permutation(rows)
            half = len(rows) // 2
            first[split, shuffled[:half]] = True
            second[split, shuffled[half : 2 * half]] = True
    between = _Pairs(_checked(vectors), units).between(first, second)
    low, high = np.quantile(between, [0.025, 0.975])
    return float(low), float(high)


class _Pairs:
    """The kernel of all pairs of n vectors, 0 within a unit."""

    def __init__(self, vectors: Vectors, units: Units) -> None:
        self._other = (units[:, None] != units[None]).astype(np.float64)
        self._kernel = polynomial_kernel(vectors, vectors) * self._other

    def between(self, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Numbers:
        """KID of two sets of rows, given as masks (k, n), for each k."""
        a, b = first.astype(np.float64), second.astype(np.float64)
        total = self._mean(a, a) + self._mean(b, b) - 2 * self._mean(a, b)
        return np.asarray(total.round(_DECIMALS))

    def _mean(self, a: Numbers, b: Numbers) -> Numbers:
        total = ((a @ self._kernel) * b).sum(axis=1)
        return np.asarray(total / ((a @ self._other) * b).sum(axis=1))


class _Blocks:
    """For each two units the sum of  k(x, x') + k(y, y') - k(x, y') - k(y, x'),  0 for one unit.

    x and y have the same units, so that all three means of KID have the same number of pairs.
    """

    def __init__(self, before: Vectors, after: Vectors, place: Units) -> None:
        member = np.zeros((len(place), place.max() + 1))
        member[np.arange(len(place)), place] = 1
        cross = polynomial_kernel(before, after)
        differs = polynomial_kernel(before, before) + polynomial_kernel(after, after)
        self.sums = member.T @ (differs - cross - cross.T) @ member
        sizes = member.sum(axis=0)
        self.pairs = np.outer(sizes, sizes)
        for matrix in (self.sums, self.pairs):
            np.fill_diagonal(matrix, 0)


def _of_draws(blocks: _Blocks, times: Units) -> Numbers:
    """KID of each draw of units (k, n), a unit not being paired with its own repetition."""
    found = []
    for start in range(0, len(times), _AT_ONCE):
        some = times[start : start + _AT_ONCE].astype(np.float64)
        pairs = ((some @ blocks.pairs) * some).sum(axis=1)
        total = ((some @ blocks.sums) * some).sum(axis=1)
        found.append(total[pairs > 0] / pairs[pairs > 0])  # one unit alone has no pair
    return np.concatenate(found).round(_DECIMALS)


def _checked(vectors: Vectors, width: int | None = None) -> Vectors:
    if vectors.ndim != 2 or (width is not None and vectors.shape[1] != width):
        raise MeasureError(f"kid: expected vectors (n, {width or 'd'}), got {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise MeasureError("kid: expected finite vectors")
    return vectors
