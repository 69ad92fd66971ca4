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
    attack,
    borderline,
    captions,
    cells,
    clusters,
    collateral,
    collect,
    components,
    describe,
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
    judge,
    match,
    model,
    nearness,
    pairs,
    probe,
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
from pipeline.stages.rounds import MOST_ROUNDS

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
    "generate": ("regroup", *(stage.name for stage in generate.STAGES[1:])),
    "match": tuple(stage.name for stage in match.STAGES[1:]),
    "verdict": tuple(stage.name for stage in judge.STAGES),
    "findings": ("probe", "probe-table", "clusters", "clusters-table", "answer"),
    "verify": ("collateral", "describe", "nearness"),
}
"""What a stage reads that is nobody's aim, and its later rounds: configurations name it alone."""
EMBEDDED: tuple[Stage, ...] = (fetch.STAGE, scan.STAGE, ingest.STAGE, ids.STAGE, embed.STAGE)
"""What an evaluation set goes through before it can be compared."""
AUDIT: tuple[Stage, ...] = (
    collect.STAGE,
    asked.STAGE,
    prompts.STAGE,
    screen.STAGE,
    screen.TABLE,
    probe.STAGE,
    probe.TABLE,
    generate.STAGE,
    regroup.STAGE,
    match.STAGE,
    judge.STAGES[0],
    *(
        stage
        for number in range(1, MOST_ROUNDS)
        for stage in (
            generate.STAGES[number],
            match.STAGES[number],
            *judge.STAGES[number : number + 1],
        )
    ),
    match.TABLE,
    clusters.STAGE,
    clusters.TABLE,
    verdict.STAGE,
    findings.STAGE,
    answer.STAGE,
)
ERASE: tuple[Stage, ...] = (erase.STAGE,)
VERIFY: tuple[Stage, ...] = (
    redraw.STAGE,
    attack.STAGE,
    collateral.STAGE,
    describe.STAGE,
    nearness.STAGE,
    verify.STAGE,
)
SCORE: tuple[Stage, ...] = (truth.STAGE, score.STAGE)
REPORT: tuple[Stage, ...] = (report.STAGE,)

IN_ORDER: tuple[Stage, ...] = (*DEMO, *DEDUP, *AUDIT, *ERASE, *VERIFY, *SCORE, *REPORT)
"""Of these a run takes those that fit its configuration: see `fitting`."""
BY_NAME: dict[str, Stage] = {stage.name: stage for stage in IN_ORDER}


def fitting(stages: Sequence[Stage], config: RunConfig) -> tuple[Stage, ...]:
    """Of `stages` those with something to do.

    Shards are fetched where they are not on this machine; vectors are given or made, never both,
    and compared with evaluation sets where there are any; captions are read by the encoder that is
    configured, if any; the model is probed where detectors are named; no picture is drawn where
    another generator's are given.
    """
    given = config.dataset.embeddings
    idle = {scan.STAGE, embed.STAGE, borderline.STAGE} if given else {ingest.STAGE}
    idle |= set() if config.borderline.neighbours else {borderline.STAGE}
    idle |= set() if config.captions.encoder else {captions.STAGE}
    idle |= set() if config.against else {against.STAGE}
    idle |= set() if config.probe.detectors else {probe.STAGE, probe.TABLE}
    idle |= set() if config.clusters.encoder else {clusters.STAGE, clusters.TABLE}
    idle |= set() if config.verify.attacks else {attack.STAGE}
    idle |= set() if config.onto else {adopt.STAGE}
    rounds = len(config.generate.schedule)
    idle |= {*generate.STAGES[rounds:], *match.STAGES[rounds:], *judge.STAGES[rounds - 1 :]}
    idle |= set() if any(map(is_remote, config.dataset.shards)) else {fetch.STAGE}
    idle |= set() if config.prompts.images else {asked.STAGE, answer.STAGE}
    drawing = {screen.STAGE, screen.TABLE, *generate.STAGES, *match.STAGES[1:], *judge.STAGES}
    idle |= drawing if config.generate.folder else {collect.STAGE, regroup.STAGE}
    return tuple(stage for stage in stages if stage not in idle)
