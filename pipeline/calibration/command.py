"""What the commands `dedup` and `calibrate dedup` make of their options, and a table of results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline.calibration.dedup import COPY
from pipeline.calibration.record import Calibration
from pipeline.config import PIXELS
from pipeline.errors import UsageError

_KINDS = ("lite0", "lite0-copy", "pdq")


def dedup_settings(
    shards: Sequence[str],
    encoder: str | None,
    *,
    threshold: float | None,
    calibration: Path | None,
    whitening: Path | None,
) -> dict[str, Any]:
    """The configuration of `dedup`. Raises UsageError for options that do not fit together."""
    _require(encoder, _KINDS)
    if threshold is not None and encoder == "pdq":
        raise UsageError("--threshold is a cosine; for pdq set pairs.pdq_max_distance")
    if threshold is not None and calibration is not None:
        raise UsageError("--threshold or --calibration, not both")
    if (encoder == "lite0-copy") != (whitening is not None):
        raise UsageError("--encoder lite0-copy and --whitening FILE go together")
    values: dict[str, Any] = {"dataset": {"shards": list(shards)}, "pairs": {}}
    if encoder == "pdq":
        values["pairs"] = {"min_similarity": {}}
    elif whitening is not None:
        if threshold is None and calibration is None:
            raise UsageError("lite0-copy has no threshold of its own; give --calibration FILE")
        copy = {"kind": "lite0-copy", "weights": str(whitening.resolve())}
        values["embed"] = {
            "encoders": {COPY: copy, "pdq": {"kind": "pdq"}, PIXELS: {"kind": PIXELS}}
        }
        values["match"] = {"encoders": [COPY, PIXELS]}
        # the calibration's takes its place
        values["pairs"] = {"min_similarity": {COPY: 1.0 if threshold is None else threshold}}
    elif threshold is not None:
        values["pairs"] = {"min_similarity": {"lite0": threshold}}
    if calibration is not None:
        values["pairs"]["calibration"] = str(calibration.resolve())
    return values


def calibration_settings(shards: Sequence[str], encoder: str | None) -> dict[str, Any]:
    """The configuration of `calibrate dedup`: the encoders that `dedup` joins, or one of them."""
    _require(encoder, ("lite0", "pdq"))
    values: dict[str, Any] = {"dataset": {"shards": list(shards)}}
    if encoder == "pdq":
        values["pairs"] = {"min_similarity": {}}
    elif encoder == "lite0":
        values["embed"] = {"encoders": {"lite0": {"kind": "lite0"}, PIXELS: {"kind": PIXELS}}}
    return values


def thresholds_table(calibration: Calibration) -> Table:
    """One row an encoder."""
    title = (
        f"{calibration.originals} pictures, {calibration.edited} of them edited in 16 ways; "
        "precision is that of pairs in this sample"
    )
    columns = ("encoder", "threshold", "precision", "95 %", "mean recall", "false rate below")
    table = Table(*columns, title=title)
    for entry in calibration.encoders.values():
        if entry.min_similarity is None or entry.precision_ci is None:
            table.add_row(entry.name, f"none reaches {entry.target}", "", "", "", "")
            continue
        by_bits = entry.max_distance is not None
        low, high = entry.precision_ci
        table.add_row(
            entry.name,
            f"{entry.max_distance} bits" if by_bits else f"{entry.min_similarity:.4f}",
            f"{entry.precision:.4f}",
            f"{low:.3f} to {high:.3f}",
            f"{entry.mean_recall:.3f}",
            f"{entry.false_rate_upper:.1e}",
        )
    return table


def _require(encoder: str | None, kinds: Sequence[str]) -> None:
    if encoder is not None and encoder not in kinds:
        allowed = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        raise UsageError(f"--encoder {encoder}: {allowed}; configure others under embed.encoders")
