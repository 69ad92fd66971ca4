"""`calibrate audit`: the verdict's threshold for a false positive rate, from an audit's controls.

Controls are captions of pictures that the training set holds once: nearly none is memorized, so the
share of them that the verdict flags is its false positive rate, or above it. The least strict ratio
is taken at which this share is at most the target. With n controls none of which is flagged the
rate is below 3 / n at 95 % (the rule of three): a rate below 1 % takes 300 controls.

Their scores are the unit in which the scores of other captions are read: see
pipeline.detection.posterior. The prior is the shipped one, fitted on planted models.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.calibration.audit_record import (
    AuditCalibration,
    Controls,
    ModelCalibration,
    Prior,
)
from pipeline.calibration.record import Rate
from pipeline.detection.gram_detectors import GRAM_DETECTORS
from pipeline.detection.intervals import wilson
from pipeline.detection.posterior import Belief, Reference
from pipeline.detection.verdict import HITS
from pipeline.errors import ConfigError, MissingInput
from pipeline.io import schemas
from pipeline.io.runfolder import FINDINGS
from pipeline.io.runjson import read_run_config
from pipeline.io.tables import read_rows
from pipeline.runner.part import Context
from pipeline.stages.judging import judge, judging_parts
from pipeline.stages.models import model_fingerprint, model_folder

RATIOS = (0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3)
_LEAST_CONTROLS = 20


def calibrate_audit(run: Path, target: float) -> AuditCalibration:
    """The calibration of the model that `run` audited.

    Raises MissingInput for a folder without findings, ConfigError for too few controls and where
    no ratio reaches the target.
    """
    if not (run / FINDINGS).is_file():
        raise MissingInput(f"{run}: no {FINDINGS}; give the --out of `audit`")
    context = Context(run, read_run_config(run))
    controls = [
        row
        for row in read_rows(run / FINDINGS, schemas.FINDINGS)
        if row["role"] == "control" and row["n_generated"]
    ]
    if len(controls) < _LEAST_CONTROLS:
        raise ConfigError(
            f"{run}: {len(controls)} control captions were drawn, at least {_LEAST_CONTROLS} are "
            "needed; audit with a larger prompts.controls"
        )
    ratio, flagged = _least_strict(context, [row["prompt_id"] for row in controls], target)
    folder = model_folder(context)
    low, high = wilson(flagged, len(controls))
    entry = ModelCalibration(
        model=folder.name,
        target=target,
        controls=len(controls),
        flagged=Rate(hits=flagged, n=len(controls), ci_low=low, ci_high=high),
        max_ratio=ratio,
        detectors=_references(controls),
        prior=Prior(**asdict(Belief())),
    )
    return AuditCalibration(models={model_fingerprint(context): entry})


def _least_strict(context: Context, prompts: list[int], target: float) -> tuple[float, int]:
    flagged = 0
    for ratio in RATIOS:
        flagged = _flagged(context, prompts, ratio)
        if flagged <= target * len(prompts):
            return ratio, flagged
    raise ConfigError(
        f"{flagged} of {len(prompts)} controls are flagged even at max_ratio {RATIOS[-1]}: are "
        "they captions of pictures that the training set holds once?"
    )


def _flagged(context: Context, prompts: list[int], ratio: float) -> int:
    section = context.config.verdict.model_copy(update={"max_ratio": ratio, "calibration": None})
    strict = Context(context.run, context.config.model_copy(update={"verdict": section}))
    return sum(
        item.verdict.verdict in HITS
        for part in judging_parts(strict, prompts)
        for item in judge(part, strict)
    )


def _references(controls: list[dict[str, Any]]) -> dict[str, Controls]:
    found: dict[str, Controls] = {}
    for name in (detector.name for detector in GRAM_DETECTORS):
        scores = [row[name] for row in controls if row[name] is not None]
        if scores:
            reference = Reference.of(scores)
            found[name] = Controls(centre=reference.centre, deviation=reference.deviation)
    return found
