"""The rule: do two pictures show the same one?

Enough features agree on an alignment, one picture lies mostly inside the other, and the pixels of
what they share agree, tile by tile. Two photographs of different things on one floor align, and
their floors agree; what stands on it does not. What is written on a picture costs up to a third of
its tiles.
"""

from dataclasses import dataclass

from pipeline.geometry.agreement import Agreement, agreement
from pipeline.geometry.alignment import Alignment, align
from pipeline.geometry.features import LocalFeatures


@dataclass(frozen=True)
class Rule:
    """Least inliers of the alignment, and least shares of the picture, its tiles and textures."""

    inliers: int = 10
    overlap: float = 0.5
    agreeing: float = 0.65
    textured: float = 0.5


def same_picture(first: LocalFeatures, second: LocalFeatures, rule: Rule | None = None) -> bool:
    """Whether one is an edit of the other, mirrored or not.

    The order of the two can decide where little is between yes and no: give them in one that does
    not depend on chance.
    """
    rule = rule or Rule()
    return _accepts(rule, first, second) or _accepts(rule, first.mirrored, second)


def _accepts(rule: Rule, first: LocalFeatures, second: LocalFeatures) -> bool:
    found = align(first, second, least_matches=rule.inliers)
    if found is None or found.inliers < rule.inliers:
        return False
    shared = _agreement(first, second, found)
    return (
        shared.overlap >= rule.overlap
        and shared.agreeing >= rule.agreeing
        and shared.textured >= rule.textured
    )


def _agreement(first: LocalFeatures, second: LocalFeatures, found: Alignment) -> Agreement:
    """Compared at the smaller of the two scales: enlarging one would only blur it."""
    if found.scale <= 1:
        return agreement(first.smooth, second.smooth, found.matrix)
    return agreement(second.smooth, first.smooth, found.inverse)
