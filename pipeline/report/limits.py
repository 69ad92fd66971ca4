"""What a report does not show, said from what was and was not run."""

from collections.abc import Iterator

from pipeline.report.facts import Audit, Erasure, Facts

_SMALL = 100


def not_run(facts: Facts) -> tuple[str, ...]:
    """The blocks that are missing, a sentence each."""
    missing = (
        (facts.images, "No training set was scanned."),
        (facts.duplicates, "No training set was searched for duplicates."),
        (facts.audit, "No model was audited: no caption was drawn and compared."),
        (facts.erasure, "Nothing was erased."),
    )
    return tuple(sentence for block, sentence in missing if block is None)


def limits(facts: Facts) -> tuple[str, ...]:
    """What the numbers do not say, a sentence each."""
    found: list[str] = []
    if facts.audit:
        found += _audit_limits(facts, facts.audit)
    if facts.erasure:
        found += _erasure_limits(facts.erasure)
    if facts.redacted:
        found.append(
            "Captions are replaced by short hashes, which whoever already has a caption can check; "
            "pictures are reduced to a few blocks of colour."
        )
    return tuple(found)


def _audit_limits(facts: Facts, audit: Audit) -> Iterator[str]:
    if any("uncalibrated" in how for how in audit.calibration):
        yield (
            "The thresholds are defaults; they were not calibrated on this model and training set, "
            "so no verdict carries a confidence."
        )
    if facts.extracted is None or facts.duplicates is None:
        yield "No training set was given, so a caption can at most be undecided, never verbatim."
    if audit.given:
        yield (
            "The pictures were made by another generator: how is not known, and a training image "
            "that none of them shows may be memorized too."
        )
    else:
        yield (
            f"Only {audit.captions} captions were drawn. A training image that none of them names "
            "may be memorized too."
        )
    if len(audit.rounds) > 1 and not audit.given:
        yield (
            f"Captions were drawn in rounds, up to {audit.rounds[-1]} times, and no further once "
            "the verdict was clear: their shares of drawings rest on unequal numbers; "
            "`--exhaustive` draws all of them for every caption."
        )
    if audit.upper_bound_of_none:
        yield (
            "A caption none of whose drawings shows a training image may still show it: with the "
            f"fewest drawings of any caption, at a rate of up to {audit.upper_bound_of_none:.0%} "
            "(exact 95 % bound)."
        )
    if facts.extracted and facts.extracted.pictures and audit.given:
        yield (
            "Generators are compared by what they show in equal numbers of samples; intervals take "
            "samples as independent."
        )
    yield (
        "Drawings of one caption are not independent, so intervals over drawings are narrower than "
        "they should be; the numbers of captions stand beside them."
    )
    if not facts.noise_gaps and not audit.given:
        yield "The captions were not screened, so there is no noise gap to compare."
    if any(0 < table.negatives <= _SMALL for table in facts.detectors):
        yield (
            f"With {_SMALL} negatives or fewer, less than 1 % of false positives means none at all."
        )
    if facts.detectors and not facts.demo:
        yield (
            "Detectors are scored against our own verdict, made from the same drawings as some: "
            "that is agreement, not accuracy."
        )


def _erasure_limits(erasure: Erasure) -> Iterator[str]:
    mitigated = [method.name for method in erasure.methods if method.mitigated]
    models = [method for method in erasure.methods if not method.mitigated]
    verified = [method for method in models if method.verdict is not None]
    if mitigated:
        yield (
            f"{', '.join(mitigated)}: drawn from the base model's own weights. It holds for as "
            "long as every picture is drawn so."
        )
    if len(verified) < len(models):
        yield "At least one erased model was not verified: nothing is known of what it draws."
    if any(not method.attacks for method in verified):
        yield (
            "No attack was run on the erased models. “Suppressed” says that these captions no "
            "longer draw the pictures, not that the weights have forgotten them."
        )
    if any(not method.oracle for method in verified):
        yield "No model trained without the pictures was there to compare with."
