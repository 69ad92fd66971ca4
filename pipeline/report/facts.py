"""What a report says, as values. Every block names the files that its numbers were read from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.detection.intervals import wilson


@dataclass(frozen=True)
class Rate:
    """`hits` of `n` with the 95 % Wilson interval; the rate of none of none is unknown."""

    hits: int
    n: int
    rate: float | None
    ci_low: float
    ci_high: float

    @classmethod
    def of(cls, hits: int, n: int) -> "Rate":
        """The rate and its interval."""
        low, high = wilson(hits, n)
        return cls(hits, n, hits / n if n else None, low, high)


@dataclass(frozen=True)
class Rejection:
    """Rows that a stage rejected for one reason, with a few of them: (where, detail)."""

    stage: str
    reason: str
    rows: int
    examples: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Images:
    """The manifest of the training set."""

    sources: tuple[str, ...]
    rows: int
    accepted: int
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True)
class Member:
    """One picture of a duplicate group."""

    image_id: int
    keep: bool
    reason: str
    similarity: float


@dataclass(frozen=True)
class Group:
    """A duplicate group; `members` may be a few of its `size` pictures, the kept ones first."""

    group_id: int
    size: int
    kept: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class JoinRecall:
    """The share of the true near-duplicate pairs of a sample that one encoder's join found."""

    encoder: str
    join: str
    pictures_sampled: int
    found: Rate


@dataclass(frozen=True)
class CaptionGroup:
    """A duplicate group with several captions, and a few of these."""

    group_id: int
    size: int
    captions: int
    diversity: float | None
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Captions:
    """How many captions duplicate groups have. `shown` are those with the most, or, where captions
    were encoded, with the most different ones."""

    sources: tuple[str, ...]
    groups: int
    several: int
    kept_alternatives: int
    encoded: bool
    shown: tuple[CaptionGroup, ...]


@dataclass(frozen=True)
class Duplicates:
    """Groups of two pictures or more, and what deduplication drops."""

    sources: tuple[str, ...]
    images: int
    groups: int
    images_in_groups: int
    kept: int
    dropped: int
    largest: int
    dropped_by_reason: Mapping[str, int]
    pairs_by_encoder: Mapping[str, int]
    recalls: tuple[JoinRecall, ...]
    chained: int
    placeholders: int
    sizes: tuple[tuple[str, int], ...]
    shown: tuple[Group, ...]


@dataclass(frozen=True)
class Finding:
    """One caption that reproduces something, with its best generation."""

    prompt_id: int
    caption: str
    role: str
    verdict: str
    n_duplicates: int
    n_caption_copies: int
    rate: Rate
    confidence: float | None
    clique_size: int
    group_id: int | None
    image_id: int | None
    image_group_id: int | None
    generation_id: int | None
    seed: int | None
    similarity: float | None
    l2: float | None
    tiled_l2: float | None
    nearest_ratio: float | None


@dataclass(frozen=True)
class Point:
    """Captions whose picture has about so many copies: the share of drawings that show it.

    Drawings of one caption are not independent, so `flagged`, the share of captions with a
    finding, stands beside `drawings`.
    """

    copies: str
    captions: int
    drawings: Rate
    flagged: Rate | None = None


@dataclass(frozen=True)
class Series:
    """A curve of extraction rate against number of copies."""

    name: str
    sources: tuple[str, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Extraction:
    """A training image that was found, with the sample that comes nearest to it."""

    image_id: int
    group_id: int
    verdict: str
    n_duplicates: int
    n_generations: int
    generation_id: int
    l2: float | None
    tiled_l2: float | None
    l2_ratio_50nn: float | None


@dataclass(frozen=True)
class Extracted:
    """Training pictures that at least one generation reproduces: the field's headline count.

    `pictures` are distinct, one a duplicate group; `images` counts the copies that were nearest.
    `samples` is the share of all samples that reproduce one. Generators are compared at equal
    counts: `distinct` pictures are to be expected among `per` of the samples, which are 1,000, or
    all where fewer were drawn (pipeline.detection.unconditional). `shown` are the clearest.
    """

    sources: tuple[str, ...]
    pictures: int
    images: int
    by_verdict: Mapping[str, int]
    generations: int
    samples: Rate
    per: int
    distinct: float
    shown: tuple[Extraction, ...]


@dataclass(frozen=True)
class Audit:
    """What was asked of the model, and what it answered; `given`: pictures of another generator."""

    sources: tuple[str, ...]
    captions: int
    controls: int
    given: bool
    generations: int
    blank: int
    verdicts: Mapping[str, int]
    flagged_controls: Rate
    calibration: tuple[str, ...]
    thresholds: Mapping[str, float | int | None]
    rounds: tuple[int, ...]
    sampling: Mapping[str, str | float | int]
    unet_forwards: int
    model_fingerprints: tuple[str, ...]
    findings: tuple[Finding, ...]
    n_findings: int
    upper_bound_of_none: float | None


@dataclass(frozen=True)
class Detector:
    """How well one score parts flagged captions from the others.

    Intervals are over families of captions. `forwards`: of the model, a caption, None if unknown.
    `chance_tpr`: what a score that knows nothing reaches on average, in place of `tpr`.
    """

    name: str
    title: str
    baseline: bool
    n: int
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    tpr: Rate | None
    forwards: float | None
    chance_tpr: float | None


@dataclass(frozen=True)
class DetectorTable:
    """Detectors against one set of labels."""

    against: str
    sources: tuple[str, ...]
    positives: int
    negatives: int
    families: int
    detectors: tuple[Detector, ...]


@dataclass(frozen=True)
class AskedImage:
    """An image that someone asked about. `verdict`: None where nothing was drawn for it."""

    asked: str
    found: bool
    how: str | None
    image_id: int | None
    n_duplicates: int | None
    verdict: str | None
    drawings: Rate | None
    elsewhere: int
    captions: tuple[str, ...]
    generation_id: int | None
    l2: float | None
    tiled_l2: float | None


@dataclass(frozen=True)
class AskedImages:
    """The answers to a rights-holder's list, by verdict; `shown` are the worst, and then others."""

    sources: tuple[str, ...]
    rows: int
    not_in_set: int
    not_drawn: int
    verdicts: Mapping[str, int]
    rejected: Mapping[str, int]
    shown: tuple[AskedImage, ...]


@dataclass(frozen=True)
class GapPoint:
    """A caption's noise gap and what it counts as in the figure."""

    kind: str
    noise_gap: float


@dataclass(frozen=True)
class Arm:
    """Captions of one kind, drawn by the model before and after with the same seeds."""

    arm: str
    attack: str
    captions: int
    before: Rate
    after: Rate
    displaced: Rate
    drift: float | None
    seed_drift: float | None


@dataclass(frozen=True)
class Measure:
    """A measure of what was to stay, of n pictures or captions, with its 95 % interval.

    `measure`: loss (relative change; of `oracle`: of erased pictures, beside the oracle's), kid (to
    the drawings before), or drift (in units of the difference between seeds). `allowed`: the
    margin, or the upper bound of KID's floor. `status`: within, beyond or cannot tell, where damage
    depends on it. `levels`: (time step, change).
    """

    measure: str
    of: str
    n: int
    drawings: int | None
    value: float | None
    interval: tuple[float, float] | None
    allowed: float | None
    status: str | None
    levels: tuple[tuple[int, float | None], ...] = ()


@dataclass(frozen=True)
class Method:
    """One erased model, or a way to draw from the base model (`mitigated`).

    The verdict is None where it was not verified; `damage` says how it is.
    """

    name: str
    settings: Mapping[str, Any]
    verdict: str | None
    why: str
    damaged: bool | None
    damage: tuple[str, ...]
    oracle: bool
    attacks: tuple[str, ...]
    model_sha256: str | None
    arms: tuple[Arm, ...]
    collateral: tuple[Measure, ...]
    mitigated: bool = False


@dataclass(frozen=True)
class Redraw:
    """One drawing of a comparison: by which model, and what it shows."""

    method: str
    key: str
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """The same caption and seed drawn by each model, the unedited one first.

    `image_id` is the training picture: the one that was drawn, else one of the caption's group.
    """

    caption: str
    arm: str
    seed: int
    image_id: int | None
    redraws: tuple[Redraw, ...]


@dataclass(frozen=True)
class Erasure:
    """What each method changed."""

    sources: tuple[str, ...]
    methods: tuple[Method, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Demo:
    """The demo's score against what was planted."""

    sources: tuple[str, ...]
    score: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A file, or the files of one pattern, that numbers were read from."""

    name: str
    files: int
    rows: int | None
    sha256: str


@dataclass(frozen=True)
class Facts:
    """Everything that a report says. A block is None where its stage did not run."""

    redacted: bool
    versions: Mapping[str, str]
    seed: int
    model: str | None
    upstream: Mapping[str, str]
    images: Images | None
    duplicates: Duplicates | None
    captions: Captions | None
    audit: Audit | None
    extracted: Extracted | None
    asked: AskedImages | None
    curve: tuple[Series, ...]
    detectors: tuple[DetectorTable, ...]
    noise_gaps: tuple[GapPoint, ...]
    erasure: Erasure | None
    demo: Demo | None
    not_run: tuple[str, ...]
    limits: tuple[str, ...]
    files: tuple[Source, ...]
