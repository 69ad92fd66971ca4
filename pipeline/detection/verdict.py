"""The verdict on one generation: which training image, if any, does it reproduce?

A distance alone convicts simple pictures: clip art on white lies within 0.15 of other clip art. So
a rule here has an absolute part and a relative one, the distance to the matched training image over
that to the nearest training image of another group. In this order, with values rounded to 6
decimals, for each match:

    blank       nothing is on the generation or the training image, or the
                latter is a placeholder                                           -> none
    verbatim    tiled l2 <= certain_tiled_l2, whatever else is near;
                or tiled l2 <= max_tiled_l2 and l2 <= max_l2, and it stands out   -> verbatim
    template    masked l2 <= max_masked_l2 and masked ratio <= max_ratio          -> template
    in doubt    an absolute part holds and its relative part is unknown, or
                a descriptor says copy (>= copy_similarity) and pixels do not     -> undecided
    otherwise                                                                     -> none

"It stands out": nearest ratio <= max_ratio; where that is unknown, l2_ratio_50nn <
max_l2_ratio_50nn. The strongest verdict over the matches stands. Without a training set to search,
a generation is undecided.
"""

from dataclasses import dataclass
from enum import StrEnum

from pipeline.detection.errors import MeasureError


class Verdict(StrEnum):
    """What a generation or a caption reproduces, as it stands in the tables."""

    VERBATIM = "verbatim"
    TEMPLATE = "template"
    UNDECIDED = "undecided"
    NONE = "none"


HITS = (Verdict.VERBATIM, Verdict.TEMPLATE)
"""The verdicts that say a training image was reproduced."""


@dataclass(frozen=True)
class Thresholds:
    """The numbers behind every verdict; the defaults hold until a calibration replaces them.

    max_tiled_l2        verbatim: the largest distance of the worst tile
    max_l2              verbatim: the largest distance of the whole, Carlini's delta
    certain_tiled_l2    verbatim without a look at other training images: a pixel copy
    max_ratio           the largest share of the distance to the nearest training image elsewhere
    max_l2_ratio_50nn   Carlini's adaptive measure, extracted below this
    max_masked_l2       template: the largest distance inside the template, Webster's bound
    copy_similarity     descriptor similarity that leaves a doubt; the encoder's own, None: unused
    clique_epsilon      two generations are linked below this tiled l2
    clique_fraction     the share of a caption's generations that makes a clique large
    min_hits            the generations that a caption needs for a verdict
    clique_cap          nodes visited in the search for a clique
    """

    max_tiled_l2: float = 0.2
    max_l2: float = 0.15
    certain_tiled_l2: float = 0.02
    max_ratio: float = 0.7
    max_l2_ratio_50nn: float = 1.0
    max_masked_l2: float = 0.11
    copy_similarity: float | None = None
    clique_epsilon: float = 0.15
    clique_fraction: float = 0.5
    min_hits: int = 2
    clique_cap: int = 500_000


@dataclass(frozen=True)
class Match:
    """A training image that a generation was compared with; None: not measured.

    `nearest_ratio`, `masked_ratio`: the tiled l2, the masked l2 to this image over the smallest one
    to an image of any other group of near-duplicates (the latter inside this group's mask).
    `l2_ratio`: the same of the whole pictures' l2. `group_id`: the group, None for an image alone.
    `blank`: nothing is on the image (pipeline.detection.blank), or it stands for a missing one.
    Raises MeasureError on nan and on negative distances.
    """

    image_id: int
    tiled_l2: float
    l2: float
    nearest_ratio: float | None = None
    l2_ratio_50nn: float | None = None
    masked_l2: float | None = None
    masked_ratio: float | None = None
    similarity: float | None = None
    blank: bool = False
    l2_ratio: float | None = None
    group_id: int | None = None

    def __post_init__(self) -> None:
        for name in DISTANCES:
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise MeasureError(f"match {self.image_id}: {name} is {value}; None if unknown")
        if self.similarity is not None and self.similarity != self.similarity:
            raise MeasureError(f"match {self.image_id}: similarity is nan; None if unknown")

    @property
    def picture(self) -> int:
        """What near-duplicates have in common: the group, or the image where it is alone."""
        return self.image_id if self.group_id is None else self.group_id


DISTANCES = (
    "tiled_l2",
    "l2",
    "nearest_ratio",
    "l2_ratio",
    "l2_ratio_50nn",
    "masked_l2",
    "masked_ratio",
)
"""The measures of a match: none is below 0, and what was not measured is None."""


@dataclass(frozen=True)
class GenerationEvidence:
    """One generation: its matches, none if nothing was near; `searched`: was there a search?"""

    generation_id: int
    matches: tuple[Match, ...] = ()
    blank: bool = False
    searched: bool = True


@dataclass(frozen=True)
class GenerationVerdict:
    """The verdict on a generation and the training image that it rests on."""

    generation_id: int
    verdict: Verdict
    image_id: int | None


_STRENGTH = (Verdict.VERBATIM, Verdict.TEMPLATE, Verdict.UNDECIDED, Verdict.NONE)


def judge_generation(evidence: GenerationEvidence, thresholds: Thresholds) -> GenerationVerdict:
    """The strongest verdict over the matches; ties by tiled l2, then by the smallest image_id."""
    if evidence.blank:
        return GenerationVerdict(evidence.generation_id, Verdict.NONE, None)
    if not evidence.searched:
        return GenerationVerdict(evidence.generation_id, Verdict.UNDECIDED, None)
    verdict, best = Verdict.NONE, None
    for match in sorted(evidence.matches, key=_nearness):
        judged = _judge_match(match, thresholds)
        if best is None or _STRENGTH.index(judged) < _STRENGTH.index(verdict):
            verdict, best = judged, match
    image_id = None if best is None or verdict is Verdict.NONE else best.image_id
    return GenerationVerdict(evidence.generation_id, verdict, image_id)


def leaning(evidence: GenerationEvidence, thresholds: Thresholds) -> Match | None:
    """The training image that a generation comes nearest to as a whole, where it stands out there.

    l2_ratio <= max_ratio, however far it is: no verdict on one generation (a blurred drawing is
    nearest to something), but evidence where most generations of a caption lean to one picture.
    """
    nearest = min(evidence.matches, key=lambda m: (round(m.l2, 6), m.image_id), default=None)
    if nearest is None or evidence.blank or nearest.blank:
        return None
    return nearest if _at_most(nearest.l2_ratio, thresholds.max_ratio) else None


def shows_nothing(evidence: GenerationEvidence, thresholds: Thresholds) -> bool:
    """Whether a generation is blank, or a copy of a blank training image or of a placeholder."""
    nearest = min(evidence.matches, key=_nearness, default=None)
    return evidence.blank or (
        nearest is not None and nearest.blank and _is_near(nearest, thresholds)
    )


def is_common(evidence: GenerationEvidence, thresholds: Thresholds) -> bool:
    """Whether training images of several groups are as near as the members of a clique.

    tiled l2 <= clique_epsilon to the nearest, and nearest ratio > max_ratio: a common object.
    """
    nearest = min(evidence.matches, key=_nearness, default=None)
    if nearest is None or nearest.nearest_ratio is None:
        return False
    is_alike = round(nearest.tiled_l2, 6) <= thresholds.clique_epsilon
    return is_alike and not _at_most(nearest.nearest_ratio, thresholds.max_ratio)


def _is_near(match: Match, limits: Thresholds) -> bool:
    is_tiled_near = round(match.tiled_l2, 6) <= limits.max_tiled_l2
    return is_tiled_near and round(match.l2, 6) <= limits.max_l2


def _nearness(match: Match) -> tuple[float, int]:
    return round(match.tiled_l2, 6), match.image_id


def _judge_match(match: Match, limits: Thresholds) -> Verdict:
    if match.blank:
        return Verdict.NONE
    tiled = round(match.tiled_l2, 6)
    near = _is_near(match, limits)
    stands_out = _stands_out(match, limits)
    if tiled <= limits.certain_tiled_l2 or (near and stands_out):
        return Verdict.VERBATIM
    fits = _at_most(match.masked_l2, limits.max_masked_l2)
    alone = _at_most(match.masked_ratio, limits.max_ratio)
    if fits and alone:
        return Verdict.TEMPLATE
    unknown = (near and stands_out is None) or (fits and alone is None)
    if unknown or _looks_copied(match, limits):
        return Verdict.UNDECIDED
    return Verdict.NONE


def _stands_out(match: Match, limits: Thresholds) -> bool | None:
    if match.nearest_ratio is None and match.l2_ratio_50nn is not None:
        return round(match.l2_ratio_50nn, 6) < limits.max_l2_ratio_50nn
    return _at_most(match.nearest_ratio, limits.max_ratio)


def _looks_copied(match: Match, limits: Thresholds) -> bool:
    if match.similarity is None or limits.copy_similarity is None:
        return False
    return round(match.similarity, 6) >= limits.copy_similarity


def _at_most(value: float | None, limit: float) -> bool | None:
    return None if value is None else round(value, 6) <= limit
