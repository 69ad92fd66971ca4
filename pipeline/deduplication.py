"""What `dedup` is given on the command line, as a configuration."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import COPY, GIVEN, PIXELS, override_value
from pipeline.errors import UnmemorizeError, UsageError
from pipeline.io.remote import is_remote
from pipeline.io.runjson import NAME, read_run_config
from pipeline.io.vectors import are_vectors

_FORCED = "dataset.embeddings="
_THOROUGH = {"neighbours": 100, "margin": 0.6, "keypoints": 400, "inliers": 13}
"""`--verify`: finds a fourth of the pictures that were pasted into others, the default few."""
_KINDS = ("lite0", "lite0-copy", "pdq")


def dedup_settings(
    addresses: Sequence[str],
    encoder: str | None,
    *,
    threshold: float | None = None,
    calibration: Path | None = None,
    whitening: Path | None = None,
    verify: bool = False,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """The dataset and the thresholds of its pairs.

    Vectors are told from shards by what lies at the addresses, unless an override says which.
    Raises UsageError for options that do not fit what is there, or each other.
    """
    forced = [text for text in overrides if text.startswith(_FORCED)]
    local = not any(map(is_remote, addresses))  # vectors are read from this machine only
    given = override_value(forced[-1]) is True if forced else local and are_vectors(addresses)
    values: dict[str, Any] = {"dataset": {"shards": list(addresses), "embeddings": given}}
    if given:
        if verify:
            raise UsageError("--verify looks at pictures; only their vectors are there")
        return values | _of_vectors(encoder, threshold, calibration or whitening)
    values |= {"borderline": _THOROUGH} if verify else {}
    return values | _of_shards(encoder, threshold, calibration, whitening)


def threads_of(out: Path) -> int:
    """How many threads a part has where nobody says: as before in a run that goes on, since
    results may depend on it in the last bit; else one a core, at most eight."""
    with contextlib.suppress(UnmemorizeError):  # what else lies there is refused later, by name
        if (out / NAME).is_file():
            return read_run_config(out).runner.threads_per_part
    return min(8, os.cpu_count() or 1)


def require_encoder(encoder: str | None, kinds: Sequence[str]) -> None:
    """Raise UsageError for an encoder that the command line cannot set up."""
    if encoder is not None and encoder not in kinds:
        allowed = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        raise UsageError(f"--encoder {encoder}: {allowed}; configure others under embed.encoders")


def _of_vectors(
    encoder: str | None, threshold: float | None, for_pictures: Path | None
) -> dict[str, Any]:
    if encoder is not None:
        raise UsageError(f"--encoder {encoder}: no picture is encoded, the vectors are there")
    if for_pictures is not None:
        raise UsageError(f"{for_pictures}: made for pictures; vectors need a --threshold of theirs")
    if threshold is None:
        raise UsageError(
            "--threshold is needed, the least cosine of two near-duplicates: an encoder that we "
            "do not know has no calibrated default"
        )
    return {"pairs": {"min_similarity": {GIVEN: threshold}}}


def _of_shards(
    encoder: str | None,
    threshold: float | None,
    calibration: Path | None,
    whitening: Path | None,
) -> dict[str, Any]:
    require_encoder(encoder, _KINDS)
    if threshold is not None and encoder == "pdq":
        raise UsageError("--threshold is a cosine; for pdq set pairs.pdq_max_distance")
    if threshold is not None and calibration is not None:
        raise UsageError("--threshold or --calibration, not both")
    if (encoder == "lite0-copy") != (whitening is not None):
        raise UsageError("--encoder lite0-copy and --whitening FILE go together")
    values: dict[str, Any] = {"pairs": {}}
    if encoder == "pdq":
        encoders = {"pdq": {"kind": "pdq"}, PIXELS: {"kind": PIXELS}}
        values |= {"embed": {"encoders": encoders}, "match": {"encoders": [PIXELS]}}
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
