"""Configurations of jobs that go on from an earlier run: erase from an audit, verify from both."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    "ablate": {"objective": "ablate", "parameters": "full"},
    "retrack": {"objective": "retrack", "parameters": "full"},
    "siss": {"objective": "siss", "parameters": "full"},
    "adversarial": {"objective": "adversarial", "parameters": "full"},
    "uce": {"objective": "uce", "parameters": "x-strict"},
}


WITHOUT_AUDIT = ("esd", "esd-gt", "uce")
"""Objectives that draw nothing from a training run."""


@dataclass(frozen=True)
class Erased:
    """What `erase` erases: the findings of an audit, or a list or captions of the user's own."""

    findings: Path | None = None
    targets: Path | None = None
    concepts: Sequence[str] = ()


def erase_settings(
    model: str, erased: Erased, method: str, **training: float | None
) -> dict[str, Any]:
    """One eraser with `training` over the method's defaults; all else as in the audit if any.

    Raises UsageError for a method that we do not have, or that needs an audit where there is none.
    """
    if method not in METHODS:
        raise UsageError(f"--method {method}: one of {', '.join(METHODS)}")
    named = erased.targets is not None or bool(erased.concepts)
    if named == (erased.findings is not None):
        raise UsageError("erase needs --findings RUN, or --targets FILE and --concept TEXT")
    if erased.findings is not None:
        values = _of_audit(erased.findings)
    else:
        values = _without_audit(erased, method)
    values["model"]["path"] = _local(model)
    given = {name: value for name, value in training.items() if value is not None}
    values["erase"]["methods"] = [{"name": method, **METHODS[method], **given}]
    return values


def _without_audit(erased: Erased, method: str) -> dict[str, Any]:
    objective = METHODS[method]["objective"]
    if objective not in WITHOUT_AUDIT:
        usable = [name for name in METHODS if METHODS[name]["objective"] in WITHOUT_AUDIT]
        raise UsageError(f"--method {method} needs --findings; without: {', '.join(usable)}")
    if objective == "esd-gt" and erased.concepts:
        raise UsageError(f"--method {method} needs pictures: --targets FILE with a column image")
    targets = None if erased.targets is None else str(erased.targets.resolve())
    return {"model": {}, "erase": {"concepts": list(erased.concepts), "targets": targets}}


ATTACKS: dict[str, dict[str, Any]] = {
    "embedding": {"start": "other", "learning_rate": 0.05, "iterations": 100, "attempts": 4},
    "prefix": {"attempts": 2},
    "completion": {"start": 0.9, "attempts": 4},
    "inpainting": {"attempts": 4},
    "relearning": {},
}
"""Budgets of `verify --attack`. The embedding's is another than the adversarial eraser's."""
USUAL = ("embedding", "completion")
"""The attacks of `verify` where there is something to compare them with."""


@dataclass(frozen=True)
class Attacked:
    """What `verify` attacks with, and what it compares with; no attacks: the usual ones."""

    kinds: Sequence[str] = ()
    oracle: str | None = None
    unseen: Sequence[str] = ()


def verify_settings(
    erased: Path, base: str, findings: Path, attacked: Attacked = Attacked()
) -> dict[str, Any]:
    """The settings that the eraser was run with, so that both split the captions alike.

    `erased` is the run folder of `erase`, or one model inside it. Raises UsageError for an attack
    that we do not have.
    """
    if unknown := [kind for kind in attacked.kinds if kind not in ATTACKS]:
        raise UsageError(f"--attack {unknown[0]}: one of {', '.join(ATTACKS)}")
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
    oracle = None if attacked.oracle is None else _local(attacked.oracle)
    compared = oracle is not None or bool(attacked.unseen)
    kinds = attacked.kinds or (USUAL if compared else ())
    given = {
        "oracle": oracle,
        "unseen": list(attacked.unseen),
        "attacks": [{"kind": kind, **ATTACKS[kind]} for kind in dict.fromkeys(kinds)],
    }
    values["verify"] |= {name: value for name, value in given.items() if value}
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
