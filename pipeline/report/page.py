"""The page: one HTML file that loads nothing from elsewhere and runs no script.

Every template escapes by default and none turns that off. Captions are made visible first, so that
neither markup nor control characters of theirs have an effect; pictures are data URIs of
thumbnails that were encoded here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report.facts import (
    AskedImage,
    Comparison,
    Extraction,
    Facts,
    Finding,
    Group,
    Measure,
    Member,
    Rate,
)
from pipeline.report.pictures import Pictures, data_uri
from pipeline.report.text import markdown, shorten, visible

_CAPTION = 400
_STRIP_CAPTION = 160
_CARDS_OPEN = 12
_STRIPS_OPEN = 10
FIGURES = {
    "extraction_by_copies": "Drawings that show the picture, by its copies; bars: 95 % intervals",
    "erasure_by_arm": "Drawings that show the picture, before and after; bars: 95 % intervals",
    "noise_gap": "Noise gap of each caption: flagged, duplicated but not flagged, and seen once",
    "group_sizes": "Number of duplicate groups by their size",
}


@dataclass(frozen=True)
class Card:
    """A finding with its pictures; None where one cannot be shown."""

    finding: Finding
    generated: str | None
    trained: str | None


@dataclass(frozen=True)
class Proof:
    """A training image that was extracted, and no caption's card shows, with the sample."""

    extraction: Extraction
    generated: str | None
    trained: str | None


@dataclass(frozen=True)
class Answer:
    """An image that was asked about, with the clearest drawing of it."""

    image: AskedImage
    generated: str | None
    trained: str | None


@dataclass(frozen=True)
class Strip:
    """A duplicate group as a row of thumbnails."""

    group: Group
    caption: str
    members: tuple[tuple[Member, str | None], ...]


@dataclass(frozen=True)
class Side:
    """One caption and seed drawn by each model: (model, verdict, picture)."""

    comparison: Comparison
    trained: str | None
    drawn: tuple[tuple[str, str, str | None], ...]


def render_page(
    facts: Facts,
    pictures: Pictures,
    light: Mapping[str, bytes],
    dark: Mapping[str, bytes],
) -> str:
    """The page as text."""
    figures = {
        name: (data_uri(light[name], "png"), data_uri(dark[name], "png"), alt)
        for name, alt in FIGURES.items()
        if name in light
    }
    values: dict[str, Any] = {
        "facts": facts,
        "figures": figures,
        "cards": _folded(_cards(facts, pictures), _CARDS_OPEN),
        "answers": _folded(_answers(facts, pictures), _CARDS_OPEN),
        "proofs": _folded(_proofs(facts, pictures), _CARDS_OPEN),
        "strips": _folded(_strips(facts, pictures), _STRIPS_OPEN),
        "sides": _sides(facts, pictures),
    }
    template = environment().get_template("index.html.j2")
    return template.render(**values, unreadable=pictures.unreadable)


def environment() -> Environment:
    """Where templates come from, and what they may call."""
    made = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "caption": lambda text: shorten(text, _CAPTION),
        "visible": visible,
        "markdown": markdown,
        "percent": _percent,
        "number": _number,
        "per_thousand": per_thousand,
        "measured": _measured,
        "count": lambda value: f"{value:,}",
    }
    return made


def _folded(items: list[Any], opened: int) -> tuple[list[Any], list[Any]]:
    """What is seen at once, and what is behind a fold."""
    return items[:opened], items[opened:]


def _cards(facts: Facts, pictures: Pictures) -> list[Card]:
    findings = facts.audit.findings if facts.audit else ()
    drawn = pictures.generations(f.generation_id for f in findings if f.generation_id is not None)
    return [
        Card(f, drawn.get(f.generation_id or 0), pictures.training(f.image_id)) for f in findings
    ]


def _proofs(facts: Facts, pictures: Pictures) -> list[Proof]:
    findings = facts.audit.findings if facts.audit else ()
    carded = {finding.image_group_id for finding in findings}
    shown = facts.extracted.shown if facts.extracted else ()
    left = [item for item in shown if item.group_id not in carded]
    drawn = pictures.generations(item.generation_id for item in left)
    return [
        Proof(item, drawn.get(item.generation_id), pictures.training(item.image_id))
        for item in left
    ]


def _answers(facts: Facts, pictures: Pictures) -> list[Answer]:
    shown = facts.asked.shown if facts.asked else ()
    drawn = pictures.generations(i.generation_id for i in shown if i.generation_id is not None)
    return [
        Answer(image, drawn.get(image.generation_id or 0), pictures.training(image.image_id))
        for image in shown
    ]


def _strips(facts: Facts, pictures: Pictures) -> list[Strip]:
    groups = facts.duplicates.shown if facts.duplicates else ()
    return [
        Strip(
            group,
            shorten(pictures.caption(group.members[0].image_id), _STRIP_CAPTION),
            tuple((member, pictures.training(member.image_id)) for member in group.members),
        )
        for group in groups
    ]


def _sides(facts: Facts, pictures: Pictures) -> list[Side]:
    comparisons = facts.erasure.comparisons if facts.erasure else ()
    drawn = pictures.redraws(redraw.key for c in comparisons for redraw in c.redraws)
    return [
        Side(
            comparison,
            pictures.training(comparison.image_id),
            tuple((r.method, r.verdict, drawn.get(r.key)) for r in comparison.redraws),
        )
        for comparison in comparisons
    ]


def _percent(value: float | None) -> str:
    """A share as a percentage; whole above one per cent."""
    if value is None:
        return "–"
    digits = 1 if 0 < value < 0.01 else 0
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def _measured(row: Measure, value: float | None) -> str:
    """A number of a measure's, in the measure's unit."""
    if value is None:
        return "–"
    if row.measure == "loss":
        return f"{100 * value:+.1f}\N{NO-BREAK SPACE}%"
    return f"{value:.4f}" if row.measure == "kid" else f"{value:.2f}"


def per_thousand(rate: Rate) -> str:
    """A rate per 1,000 with its 95 % interval."""
    shown = "–" if rate.rate is None else f"{1000 * rate.rate:.3g}"
    return f"{shown} (95 % {1000 * rate.ci_low:.3g} to {1000 * rate.ci_high:.3g})"


def _number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"
