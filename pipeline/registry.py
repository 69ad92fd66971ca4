"""The stages in the order in which the data flows."""

from pipeline.runner.part import Stage
from pipeline.stages import (
    cells,
    embed,
    erase,
    export,
    findings,
    generate,
    groups,
    ids,
    index,
    match,
    model,
    pairs,
    prompts,
    recall,
    redraw,
    report,
    scan,
    score,
    screen,
    shards,
    truth,
    verdict,
    verify,
)

DEMO: tuple[Stage, ...] = (shards.STAGE, model.STAGE)
DEDUP: tuple[Stage, ...] = (
    scan.STAGE,
    ids.STAGE,
    embed.STAGE,
    index.STAGE,
    cells.STAGE,
    pairs.STAGE,
    recall.STAGE,
    groups.STAGE,
    export.STAGE,
)
AUDIT: tuple[Stage, ...] = (
    prompts.STAGE,
    screen.STAGE,
    screen.TABLE,
    generate.STAGE,
    match.STAGE,
    match.TABLE,
    verdict.STAGE,
    findings.STAGE,
)
ERASE: tuple[Stage, ...] = (erase.STAGE,)
VERIFY: tuple[Stage, ...] = (redraw.STAGE, verify.STAGE)
SCORE: tuple[Stage, ...] = (truth.STAGE, score.STAGE)
REPORT: tuple[Stage, ...] = (report.STAGE,)

IN_ORDER: tuple[Stage, ...] = (*DEMO, *DEDUP, *AUDIT, *ERASE, *VERIFY, *SCORE, *REPORT)
BY_NAME: dict[str, Stage] = {stage.name: stage for stage in IN_ORDER}
