"""The audit card: what a model card would say about memorization, in Markdown with a YAML head."""

from typing import Any

import yaml

from pipeline.report.facts import Facts
from pipeline.report.page import environment, per_thousand


def render_card(facts: Facts) -> str:
    """The card as text."""
    head = yaml.safe_dump(_head(facts), sort_keys=False, allow_unicode=False, width=10_000)
    body = environment().get_template("AUDIT_CARD.md.j2").render(facts=facts)
    return f"---\n{head}---\n{body}"


def _head(facts: Facts) -> dict[str, Any]:
    head: dict[str, Any] = {
        "card": "memorization-audit",
        "tool": f"unmemorize {facts.versions.get('unmemorize', '')}".strip(),
        "model": facts.model,
        "redacted": facts.redacted,
    }
    if facts.images:
        head["training_images"] = facts.images.accepted
    if facts.duplicates:
        head["duplicates_dropped"] = facts.duplicates.dropped
    if facts.audit:
        head["model_fingerprints"] = list(facts.audit.model_fingerprints)
        head["captions_audited"] = facts.audit.captions
        head["captions_by_verdict"] = dict(facts.audit.verdicts)
        head["calibration"] = list(facts.audit.calibration)
    if facts.extracted:
        head["training_pictures_extracted"] = facts.extracted.pictures
        head["training_images_extracted"] = facts.extracted.images
        head["samples"] = facts.extracted.samples.n
        head["samples_that_reproduce_per_1000"] = per_thousand(facts.extracted.samples)
    if facts.erasure:
        head["erasure"] = {
            method.name: {"verdict": method.verdict, "damaged": method.damaged}
            for method in facts.erasure.methods
        }
    return head
