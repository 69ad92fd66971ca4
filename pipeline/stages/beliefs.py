"""What a run believes of a caption before it is drawn: its calibration, and its screen scores."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pipeline.calibration.audit_record import (
    AuditCalibration,
    ModelCalibration,
    read_audit_calibration,
)
from pipeline.detection.gram_detectors import noise_gap
from pipeline.detection.posterior import Belief
from pipeline.detection.scored_steps import ScoredSteps
from pipeline.io import schemas
from pipeline.io.digest import canonical_sha256, sha256_once
from pipeline.io.runfolder import SCREEN
from pipeline.io.tables import read_table
from pipeline.runner.part import Context, Part
from pipeline.stages.models import model_fingerprint

DETECTOR = "noise_gap"
"""The score that decides which captions are drawn; it costs two forwards."""


def calibration_of(context: Context) -> ModelCalibration | None:
    """The calibration of the audited model; None where none is configured.

    Raises ConfigError for a file that does not know this model.
    """
    path = context.config.verdict.calibration
    if path is None:
        return None
    return _read(path, sha256_once(path)).of_model(model_fingerprint(context), source=path)


def with_calibration(parts: Sequence[Part], context: Context) -> list[Part]:
    """The parts, with what the calibration says of the model among their params.

    The configuration names a file, whose path says nothing of what it holds.
    """
    calibration = calibration_of(context)
    if calibration is None:
        return list(parts)
    said = {"calibration": canonical_sha256(calibration.model_dump(mode="json"))}
    return [replace(part, params={**part.params, **said}) for part in parts]


def belief_of(context: Context) -> Belief:
    """The calibrated belief, or the shipped one."""
    calibration = calibration_of(context)
    return Belief() if calibration is None else calibration.belief()


def standardized_scores(context: Context) -> dict[int, float]:
    """The detector's score of each caption in units of the model's controls, where calibrated."""
    calibration, path = calibration_of(context), context.path(SCREEN)
    reference = None if calibration is None else calibration.reference(DETECTOR)
    if reference is None or not path.is_file():
        return {}
    table = read_table(path, schemas.SCREEN)
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    scores = noise_gap(ScoredSteps(columns))
    return {prompt: reference.standardize(score) for prompt, score in scores.items()}


@lru_cache(maxsize=2)
def _read(path: Path, digest: str) -> AuditCalibration:
    del digest  # a key only
    return read_audit_calibration(path)
