"""What a command says when it is done, and whether a gate of `--fail-on` was met.

The lines are read off the same facts as the report. Captions are shown as plain text: no markup,
no terminal escapes.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.errors import MissingInput, UsageError
from pipeline.io import schemas
from pipeline.io.runfolder import CONTAMINATED, FINDINGS
from pipeline.io.runjson import read_run_config
from pipeline.io.tables import read_rows, read_table
from pipeline.report.collect import collect
from pipeline.report.facts import AskedImages, Audit, Duplicates, Erasure, Facts, Finding, Rate
from pipeline.report.page import per_thousand
from pipeline.report.sources import read_json
from pipeline.report.text import shorten, visible
from pipeline.runner.part import Context

_TOP = 5
_CAPTION = 64
_VERIFICATION = "verification.json"
_GATES = {
    "verbatim": FINDINGS,
    "template": FINDINGS,
    "failed": _VERIFICATION,
    "suppressed": _VERIFICATION,
    "damaged": _VERIFICATION,
}
Line = tuple[str, str]


def print_summary(run: Path) -> None:
    """Print what a run found: a few lines, and where the report is."""
    facts = collect(Context(run, read_run_config(run)))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in [*_lines(facts), *_contaminated(run), *_report(run)]:
        grid.add_row(Text(name), Text(text))
    Console().print(grid)


def failed_on(run: Path, what: str) -> str:
    """The first of the comma-separated gates that was met, as a reason; empty where none was.

    Raises UsageError for a word that is none, MissingInput where a gate cannot be judged.
    """
    words = [word.strip() for word in what.split(",")]
    if unknown := [word for word in words if word not in _GATES]:
        raise UsageError(f"--fail-on {visible(unknown[0])}: one of {', '.join(_GATES)}")
    for word in words:
        if not (run / _GATES[word]).is_file():
            raise MissingInput(f"--fail-on {word}: no {_GATES[word]} in {run}; nothing was judged")
    return next(filter(None, (_met(run, word) for word in words)), "")


def _met(run: Path, word: str) -> str:
    if _GATES[word] == FINDINGS:
        verdicts = Counter(
            row["verdict"]
            for row in read_rows(run / FINDINGS, schemas.FINDINGS, columns=["verdict"])
        )
        count = verdicts[word]
        return f"{count} caption{'s' if count > 1 else ''} {word}" if count else ""
    methods = read_json(run / _VERIFICATION).get("methods", {})
    met = [
        visible(name)
        for name, said in sorted(methods.items())
        if (said["damaged"] if word == "damaged" else said["verdict"] == word)
    ]
    return f"{', '.join(met)} {word}" if met else ""


def _lines(facts: Facts) -> Iterator[Line]:
    if facts.images:
        rejected = facts.images.rows - facts.images.accepted
        yield (
            "pictures",
            f"{facts.images.accepted:,} accepted, {rejected:,} of {facts.images.rows:,} "
            "rows rejected",
        )
    if facts.duplicates:
        yield "duplicates", _of_duplicates(facts.duplicates)
    if facts.audit:
        yield "found", _of_audit(facts, facts.audit)
        yield from (("", _of_finding(finding)) for finding in facts.audit.findings[:_TOP])
    if facts.asked:
        yield "asked", _of_asked(facts.asked)
    if facts.erasure:
        yield from _of_erasure(facts.erasure)
    if facts.demo:
        yield from _of_demo(facts)


def _of_duplicates(found: Duplicates) -> str:
    return (
        f"{found.images_in_groups:,} of {found.images:,} pictures in {found.groups:,} groups, "
        f"the largest of {found.largest:,}; {found.dropped:,} to drop"
    )


def _of_audit(facts: Facts, audit: Audit) -> str:
    verdicts = ", ".join(f"{n:,} {verdict}" for verdict, n in audit.verdicts.items())
    found = facts.extracted
    extracted = f"; {found.pictures:,} training pictures extracted" if found else ""
    extracted += f", {per_thousand(found.samples)} of 1,000 samples show one" if found else ""
    controls = audit.flagged_controls
    false = f"; {controls.hits} of {controls.n} controls flagged" if controls.n else ""
    if audit.given and not audit.captions:
        return f"{audit.generations:,} pictures without captions{extracted}"
    return f"{audit.captions:,} captions: {verdicts}{extracted}{false}"


def _of_asked(asked: AskedImages) -> str:
    counts = {**asked.verdicts, "not in the training set": asked.not_in_set}
    counts |= {"without a caption to draw": asked.not_drawn}
    counts |= {f"rejected as {reason}": n for reason, n in asked.rejected.items()}
    said = ", ".join(f"{n:,} {visible(what)}" for what, n in counts.items() if n)
    return f"{asked.rows:,} images: {said}"


def _of_finding(finding: Finding) -> str:
    image = "no training image" if finding.image_id is None else f"image {finding.image_id}"
    caption = shorten(finding.caption, _CAPTION)
    rate = f"{finding.rate.hits} of {finding.rate.n} drawings"
    return f"{finding.verdict}, {finding.n_duplicates} copies, {rate}: “{caption}” → {image}"


def _of_erasure(erasure: Erasure) -> Iterator[Line]:
    for method in erasure.methods:
        damage = ", damaged" if method.damaged else ""
        arms = [
            f"{arm.arm.replace('_', ' ')} {_percent(arm.before)} → {_percent(arm.after)}"
            for arm in method.arms
            if arm.attack == "none"
        ]
        rates = f"; drawings that show the picture: {', '.join(arms)}" if arms else ""
        yield visible(method.name), f"{method.verdict or 'not verified'}{damage}{rates}"


def _of_demo(facts: Facts) -> Iterator[Line]:
    score = facts.demo.score if facts.demo else {}
    if pairs := score.get("pairs"):
        found = f"{pairs['found']:,} of {pairs['planted']:,} near-duplicate pairs found"
        yield "planted", f"{found}, {pairs['false']:,} false"
    if truth := score.get("truth"):
        low, high = truth["recall_ci"]
        yield (
            "truth",
            f"{truth['found_positive']} of {truth['positive']} memorized captions found "
            f"({low:.0%} to {high:.0%}), {truth['false_findings']} of {truth['negative']} others "
            "flagged",
        )


def _contaminated(run: Path) -> Iterator[Line]:
    if (run / CONTAMINATED).is_file():
        rows = read_table(run / CONTAMINATED, schemas.CONTAMINATED, columns=["image_id"]).num_rows
        yield "contaminated", f"{rows:,} that evaluation sets hold too, all to drop: {CONTAMINATED}"


def _report(run: Path) -> Iterator[Line]:
    page = run / "report" / "index.html"
    if page.is_file():
        yield "report", visible(str(page))


def _percent(rate: Rate) -> str:
    return "–" if rate.rate is None else f"{rate.rate:.0%}"
