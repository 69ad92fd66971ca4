"""Looking at a model while it forgets: stop where it has, or say what forgetting costs.

A look counts how many drawings of the trained captions still show their pictures, how many of an
attack's attempts do, and how many drawings of other memorized captions show theirs. Training ends
at the first look that meets the bound. If none does, the looks that no other look beats both in
removing and in keeping (their Pareto front) are what there is to choose from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.erasure.conclusion import Tally


@dataclass(frozen=True)
class Look:
    """What is left after `iteration`: of the pictures to forget, and of those to keep.

    `attacked` is None where no attack was tried, since drawings alone said no.
    """

    iteration: int
    left: Tally
    kept: Tally
    attacked: Tally | None = None
    met: bool = False

    @property
    def remembered(self) -> tuple[float, float]:
        """Less is better: the rate of drawings that show a picture, then of attacks."""
        attacked = self.attacked if self.attacked is not None else Tally(1, 1)
        return self.left.rate, attacked.rate

    @property
    def lost(self) -> float:
        """Less is better: the rate of other memorized pictures that are no longer drawn."""
        return 1 - self.kept.rate if self.kept.n else 0.0


@dataclass(frozen=True)
class Looks:
    """Take a `look` at the model after every so many iterations, and after the last."""

    every: int
    look: Callable[[int], Look]

    def due(self, iteration: int, last: int) -> bool:
        """Whether to look after `iteration` of `last`."""
        return iteration % self.every == 0 or iteration == last


def best(looks: Sequence[Look]) -> Look:
    """The look that remembers least, of equal ones the one that lost least, then the first."""
    return min(looks, key=lambda look: (look.remembered, look.lost, look.iteration))


def front(looks: Sequence[Look]) -> list[Look]:
    """The looks that no other one beats: better in one of removing and keeping, as good in both."""
    return [look for look in looks if not any(_beats(other, look) for other in looks)]


def _beats(one: Look, other: Look) -> bool:
    as_good = one.remembered <= other.remembered and one.lost <= other.lost
    return as_good and (one.remembered, one.lost) != (other.remembered, other.lost)
