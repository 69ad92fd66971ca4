"""What `calibrate dedup` makes of its options, and a table of its results."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from pipeline.calibration.record import Calibration
from pipeline.config import PIXELS
from pipeline.deduplication import require_encoder


def calibration_settings(shards: Sequence[str], encoder: str | None) -> dict[str, Any]:
    """The configuration of `calibrate dedup`: the encoders that `dedup` joins, or one of them."""
    require_encoder(encoder, ("lite0", "pdq"))
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
