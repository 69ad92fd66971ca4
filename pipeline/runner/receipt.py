"""Receipts: what makes a finished part recognisable, and a stale one impossible to reuse.

A receipt is written last, atomically. It holds the fields its fingerprint was computed from, so
that a mismatch can name what changed, and the digests of its outputs.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import FingerprintMismatch, MissingInput
from pipeline.io.atomic import write_bytes
from pipeline.io.digest import DigestCache, canonical_sha256
from pipeline.runner.part import Context, Outcome, Part, Stage

FOLDER = "receipts"
FAILED = ".failed.json"


@dataclass(frozen=True)
class Receipt:
    """The record of one finished part."""

    stage: str
    part: str
    fingerprint: str
    fields: Mapping[str, Any]
    outputs: Mapping[str, str]
    rows_in: int
    rows_out: int
    rejected: Mapping[str, int]
    notes: tuple[str, ...]


_RECEIPT = TypeAdapter(Receipt)


def fingerprint_fields(
    stage: Stage, part: Part, context: Context, digests: DigestCache
) -> dict[str, Any]:
    """Everything that the output of a part depends on, as JSON."""
    settings = context.config.model_dump(mode="json", include={"seed", *stage.settings})
    return {
        "version": stage.version,
        "threads_per_part": context.config.runner.threads_per_part,
        "settings": settings,
        "params": json.loads(json.dumps(part.params)),
        "inputs": {name: _digest(context.path(name), digests) for name in sorted(part.inputs)},
    }


def make_receipt(
    stage: Stage, part: Part, fields: Mapping[str, Any], outcome: Outcome, outputs: dict[str, str]
) -> Receipt:
    """The receipt of a part whose outputs, with these digests, are on disk."""
    return Receipt(
        stage=stage.name,
        part=part.name,
        fingerprint=canonical_sha256(fields),
        fields=fields,
        outputs=dict(sorted(outputs.items())),
        rows_in=outcome.rows_in,
        rows_out=outcome.rows_out,
        rejected=dict(sorted(outcome.rejected.items())),
        notes=tuple(outcome.notes),
    )


def receipt_path(run: Path, stage: str, part: str) -> Path:
    """Where the receipt of a part lies."""
    return run / FOLDER / stage / f"{part}.json"


def write_receipt(run: Path, receipt: Receipt) -> None:
    """Drop the record of earlier failures of the part and write its receipt, in this order."""
    path = receipt_path(run, receipt.stage, receipt.part)
    path.with_suffix(FAILED).unlink(missing_ok=True)
    write_bytes(path, json.dumps(asdict(receipt), sort_keys=True, indent=1).encode())


def read_receipt(path: Path) -> Receipt | None:
    """Read a receipt; None where there is none or it cannot be read, so that the part is redone."""
    try:
        return _RECEIPT.validate_json(path.read_bytes(), strict=True)
    except (FileNotFoundError, ValidationError):
        return None


def read_receipts(run: Path, stage: str) -> list[Receipt]:
    """All receipts of a stage, by part name."""
    paths = sorted((run / FOLDER / stage).glob("*.json"))
    found = [read_receipt(path) for path in paths if not path.name.endswith(FAILED)]
    return [receipt for receipt in found if receipt is not None]


def outputs_intact(receipt: Receipt, context: Context, digests: DigestCache) -> bool:
    """Whether every output is there with the digest that the receipt names."""
    paths = {name: context.path(name) for name in receipt.outputs}
    return all(
        path.exists() and digests.sha256(path) == receipt.outputs[name]
        for name, path in paths.items()
    )


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the leaves that differ, with both values."""
    changes: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            changes += changed_fields(before, after, f"{prefix}{name}.")
        else:
            changes.append(f"{prefix}{name} was {_short(before)}, now {_short(after)}")
    return changes


def require_rebuildable(stage: str, part: str, receipt: Receipt, fields: Mapping[str, Any]) -> str:
    """Say what changed where only the run's own earlier outputs did; else refuse.

    Raises FingerprintMismatch for changed settings, versions or inputs from outside the run.
    """
    changes = changed_fields(receipt.fields, fields)
    own = [change for change in changes if _is_own_input(change)]
    foreign = [change for change in changes if change not in own]
    if foreign:
        raise FingerprintMismatch(
            f"{stage}/{part}: {foreign[0]}; pass --rebuild to redo {stage} and what depends on "
            "it, or give another --out"
        )
    return own[0] if own else "the receipt was damaged"


def _is_own_input(change: str) -> bool:
    return change.startswith("inputs.") and not change.startswith("inputs./")


def _digest(path: Path, digests: DigestCache) -> str:
    if not path.exists():
        raise MissingInput(f"{path}: no such file; the stage that writes it has not run")
    return digests.sha256(path)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
