"""Configurations of jobs that go on from an earlier run: erase from an audit, verify from both."""

from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.errors import MissingInput, UsageError
from pipeline.io.runfolder import FINDINGS
from pipeline.io.runjson import read_run_config

METHODS: dict[str, dict[str, Any]] = {
    "esd-x": {"objective": "esd", "parameters": "x"},
    "esd-x-strict": {"objective": "esd", "parameters": "x-strict"},
    "esd-u": {"objective": "esd", "parameters": "u"},
    "esd-gt": {"objective": "esd-gt", "parameters": "u"},
}


def erase_settings(
    model: str, findings: Path, method: str, **training: float | None
) -> dict[str, Any]:
    """The audit's own settings with one eraser, `training` over the method's defaults.

    Raises UsageError for a method that we do not have.
    """
    if method not in METHODS:
        raise UsageError(f"--method {method}: one of {', '.join(METHODS)}")
    values = _of_audit(findings)
    values["model"]["path"] = _local(model)
    given = {name: value for name, value in training.items() if value is not None}
    values["erase"]["methods"] = [{"name": method, **METHODS[method], **given}]
    return values


def verify_settings(erased: Path, base: str, findings: Path) -> dict[str, Any]:
    """The settings that the eraser was run with, so that both split the captions alike.

    `erased` is the run folder of `erase`, or one model inside it.
    """
    inside = (erased / "erasure.json").is_file()
    run = erased.resolve().parents[1] if inside else erased
    models = erased if inside else erased / "erased"
    if not inside and not any(models.glob("*/erasure.json")):
        raise MissingInput(f"{erased}: no erased model in it; give the --out of `erase`")
    values = _of_audit(findings)
    own: RunConfig = read_run_config(run)
    values["seed"] = own.seed
    values["erase"] = own.erase.model_dump(mode="json")
    values["model"]["path"] = _local(base)
    values["erased"] = str(models.resolve())
    return values


def _of_audit(findings: Path) -> dict[str, Any]:
    if not (findings / FINDINGS).is_file():
        raise MissingInput(f"{findings}: no {FINDINGS}; give the --out of `audit`")
    audit = read_run_config(findings)
    values = audit.model_dump(mode="json")
    values["findings"] = str(findings.resolve())
    values["train"] = str((audit.train or findings).resolve())
    return values


def _local(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model
