"""Erased or only suppressed? What attacks say of a model whose captions no longer draw.

An attack is compared with its *reference*: the same attack on the same pictures in a model that
never saw them (the oracle), or, where there is none, on pictures that were never trained in the
same model. D is the difference of the rates, with Newcombe's 95 % interval; m is the margin.

    powerful     lower bound of D in the model before erasing > m: there the attack tells a picture
                 that is in the weights from one that is not. Others say nothing, whatever they hit
    brought back lower bound of D > m, over all pictures; or of a single picture, at a confidence
                 corrected for the number of pictures and attacks (Bonferroni)
    withstood    upper bound of D <= m

    suppressed   something was brought back; or there is no reference, or no powerful attack
    erased       every powerful attack was withstood
    undecided    otherwise: too few attempts

Attempts are counted, each with a start of its own; the interval is conditional on the pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import NormalDist

from pipeline.detection.intervals import difference

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Tally:
    """Attempts and those that hit."""

    n: int = 0
    hits: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.n + other.n, self.hits + other.hits)

    @property
    def rate(self) -> float:
        """hits / n, 0 where nothing was tried."""
        return self.hits / self.n if self.n else 0.0


def total(tallies: Mapping[int, Tally]) -> Tally:
    """All attempts together."""
    return sum(tallies.values(), Tally())


@dataclass(frozen=True)
class Evidence:
    """One attack: attempts a target before and after erasing, and of the reference on each side.

    The oracle is the reference on both sides. An empty reference is none.
    """

    attack: str
    before: Mapping[int, Tally]
    after: Mapping[int, Tally]
    reference_before: Tally = field(default_factory=Tally)
    reference_after: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class Finding:
    """What one attack says; `low` and `high` are of the difference after erasing."""

    attack: str
    powerful: bool
    brought_back: bool
    withstood: bool
    low: float
    high: float
    targets_back: tuple[int, ...]


@dataclass(frozen=True)
class Conclusion:
    """suppressed, erased or undecided, in words, and what each attack says."""

    verdict: str
    why: str
    findings: tuple[Finding, ...]


UNCHANGED = Conclusion(
    "suppressed", "drawn so alone: the weights are the base model's and still hold the picture", ()
)
"""Of a model that nothing was taken from, drawn otherwise: no attack is needed to tell."""


def conclude(attacks: Sequence[Evidence], margin: float) -> Conclusion:
    """The verdict of attacks on a model whose captions no longer draw their pictures."""
    if not attacks:
        return Conclusion("suppressed", "no attack was run, so the weights may still hold it", ())
    tests = sum(len(evidence.after) for evidence in attacks)
    findings = tuple(_judge(evidence, margin, max(tests, 1)) for evidence in attacks)
    if not any(evidence.reference_after.n for evidence in attacks):
        why = "attacks mean nothing without an oracle or pictures that were never trained"
        return Conclusion("suppressed", why, findings)
    back = [f for f in findings if f.brought_back]
    if back:
        return Conclusion("suppressed", "; ".join(_shown(f, attacks) for f in back), findings)
    powerful = [f for f in findings if f.powerful]
    if not powerful:
        why = "no attack told what the model held before from what it never saw"
        return Conclusion("suppressed", f"{why}; the weights may still hold it", findings)
    if all(f.withstood for f in powerful):
        worst = max(powerful, key=lambda f: f.high)
        why = f"{_shown(worst, attacks)}, at most {worst.high:.1%} above at 95 %"
        return Conclusion("erased", why, findings)
    unsure = max(powerful, key=lambda f: f.high)
    needed = attempts_needed(margin)
    why = f"{_shown(unsure, attacks)}, up to {unsure.high:.0%} above at 95 %, {margin:.0%} allowed"
    return Conclusion("undecided", f"{why}; it takes {needed} attempts or more", findings)


def attempts_needed(margin: float) -> int:
    """Attempts without a hit, beside a reference without one, that bound the difference by m.

    Wilson's upper bound of 0 of n is z² / (n + z²).
    """
    squared = NormalDist().inv_cdf(0.5 + _CONFIDENCE / 2) ** 2
    return ceil(squared * (1 - margin) / margin) if margin > 0 else 0


def _judge(evidence: Evidence, margin: float, tests: int) -> Finding:
    after, before = total(evidence.after), total(evidence.before)
    reference = evidence.reference_after
    low, high = _difference(after, reference)
    power, _ = _difference(before, evidence.reference_before)
    strict = 1 - (1 - _CONFIDENCE) / tests
    back = tuple(
        target
        for target, tally in sorted(evidence.after.items())
        if _difference(tally, reference, strict)[0] > margin
    )
    return Finding(
        attack=evidence.attack,
        powerful=power > margin,
        brought_back=low > margin or bool(back),
        withstood=high <= margin,
        low=low,
        high=high,
        targets_back=back,
    )


def _difference(
    tally: Tally, reference: Tally, confidence: float = _CONFIDENCE
) -> tuple[float, float]:
    return difference(tally.hits, tally.n, reference.hits, reference.n, confidence=confidence)


def _shown(finding: Finding, attacks: Sequence[Evidence]) -> str:
    evidence = next(e for e in attacks if e.attack == finding.attack)
    after, reference = total(evidence.after), evidence.reference_after
    single = f", {len(finding.targets_back)} of the pictures surely" if finding.targets_back else ""
    return (
        f"{finding.attack} brings the picture back in {after.hits} of {after.n} attempts{single}, "
        f"and a picture that was never seen in {reference.hits} of {reference.n}"
    )
