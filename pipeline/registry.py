"""The stages in the order in which the data flows."""

from collections.abc import Sequence

from pipeline.config import RunConfig
from pipeline.io.remote import is_remote
from pipeline.runner.part import Stage
from pipeline.stages import (
    adopt,
    against,
    answer,
    asked,
    borderline,
    captions,
    cells,
    collect,
    components,
    diversity,
    embed,
    erase,
    export,
    fetch,
    findings,
    generate,
    groups,
    hubs,
    ids,
    index,
    ingest,
    match,
    model,
    pairs,
    prompts,
    quality,
    recall,
    redraw,
    regroup,
    report,
    scan,
    score,
    screen,
    shards,
    survivors,
    truth,
    verdict,
    verify,
)

DEMO: tuple[Stage, ...] = (shards.STAGE, model.STAGE)
DEDUP: tuple[Stage, ...] = (
    adopt.STAGE,
    fetch.STAGE,
    scan.STAGE,
    ingest.STAGE,
    ids.STAGE,
    embed.STAGE,
    captions.STAGE,
    index.STAGE,
    hubs.STAGE,
    cells.STAGE,
    pairs.STAGE,
    recall.STAGE,
    borderline.STAGE,
    against.STAGE,
    quality.STAGE,
    components.STAGE,
    survivors.STAGE,
    groups.STAGE,
    diversity.STAGE,
    export.STAGE,
)
PREPARING: dict[str, tuple[str, ...]] = {
    "pairs": ("hubs",),
    "groups": ("quality", "components", "survivors"),
    "prompts": ("collect", "asked"),
    "generate": ("regroup",),
    "findings": ("answer",),
}
"""What a stage reads that is nobody's aim: configurations name the stage alone."""
EMBEDDED: tuple[Stage, ...] = (fetch.STAGE, scan.STAGE, ingest.STAGE, ids.STAGE, embed.STAGE)
"""What an evaluation set goes through before it can be compared."""
AUDIT: tuple[Stage, ...] = (
    collect.STAGE,
    asked.STAGE,
    prompts.STAGE,
    screen.STAGE,
    screen.TABLE,
    generate.STAGE,
    regroup.STAGE,
    match.STAGE,
    match.TABLE,
    verdict.STAGE,
    findings.STAGE,
    answer.STAGE,
)
ERASE: tuple[Stage, ...] = (erase.STAGE,)
VERIFY: tuple[Stage, ...] = (redraw.STAGE, verify.STAGE)
SCORE: tuple[Stage, ...] = (truth.STAGE, score.STAGE)
REPORT: tuple[Stage, ...] = (report.STAGE,)

IN_ORDER: tuple[Stage, ...] = (*DEMO, *DEDUP, *AUDIT, *ERASE, *VERIFY, *SCORE, *REPORT)
"""Of these a run takes those that fit its configuration: see `fitting`."""
BY_NAME: dict[str, Stage] = {stage.name: stage for stage in IN_ORDER}


def fitting(stages: Sequence[Stage], config: RunConfig) -> tuple[Stage, ...]:
    """Of `stages` those with something to do.

    Shards are fetched where they are not on this machine; vectors are given or made, never both,
    and compared with evaluation sets where there are any; captions are read by the encoder that is
    configured, if any; no picture is drawn where another generator's are given.
    """
    given = config.dataset.embeddings
    idle = {scan.STAGE, embed.STAGE, borderline.STAGE} if given else {ingest.STAGE}
    idle |= set() if config.borderline.neighbours else {borderline.STAGE}
    idle |= set() if config.captions.encoder else {captions.STAGE}
    idle |= set() if config.against else {against.STAGE}
    idle |= set() if config.onto else {adopt.STAGE}
    idle |= set() if any(map(is_remote, config.dataset.shards)) else {fetch.STAGE}
    idle |= set() if config.prompts.images else {asked.STAGE, answer.STAGE}
    drawing = {screen.STAGE, screen.TABLE, generate.STAGE}
    idle |= drawing if config.generate.folder else {collect.STAGE, regroup.STAGE}
    return tuple(stage for stage in stages if stage not in idle)
