"""calibration.json: thresholds by encoder fingerprint, and what they were measured on."""

import json
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from pipeline.config import Cosine, Count, Fraction, Section
from pipeline.encoders import Metric
from pipeline.errors import ConfigError, MissingInput
from pipeline.io.atomic import write_bytes

_MAX_BYTES = 16 << 20
Natural = Field(ge=0)


class Rate(Section):
    """hits of n, and the 95 % Wilson interval of the share."""

    hits: int = Natural
    n: int = Natural
    ci_low: Fraction
    ci_high: Fraction


class FalsePair(Section):
    """Two pictures of which edits or originals came out as a pair; look at the largest."""

    a: str
    b: str
    similarity: float


class EncoderThreshold(Section):
    """What one encoder reaches. `min_similarity` is None where it nowhere has that precision.

    For PDQ `max_distance` is the threshold, in bits, and `min_similarity` is 1 - bits / 256.
    """

    name: str
    metric: Metric
    target: Fraction
    min_similarity: Cosine | None
    max_distance: int | None = Field(None, ge=0, le=256)
    precision: Fraction | None = None
    precision_ci: tuple[Fraction, Fraction] | None = None
    true_pairs: int = Natural
    false_pairs: int = Natural
    false_rate_upper: Fraction | None = None
    mean_recall: Fraction | None = None
    recall: dict[str, Rate] = Field(default_factory=dict)
    false_originals: int = Natural
    worst: tuple[FalsePair, ...] = ()


class Record(Section):
    """A file of calibrations."""

    version: Literal[1] = 1

    def save(self, path: Path) -> None:
        """Write the file atomically, the same bytes for the same values."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)
        write_bytes(path, text.encode())


class Calibration(Record):
    """The file. `left_out` counts pictures of the sample that were not used, by reason."""

    seed: int = Natural
    originals: Count
    edited: Count
    left_out: dict[str, int] = Field(default_factory=dict)
    encoders: dict[str, EncoderThreshold]

    def threshold(self, name: str, fingerprint: str, *, source: Path) -> EncoderThreshold:
        """An encoder's entry. Raises ConfigError where there is none, or no threshold in it."""
        entry = self.encoders.get(fingerprint)
        if entry is None:
            known = ", ".join(sorted(e.name for e in self.encoders.values())) or "none"
            raise ConfigError(
                f"{source}: encoder {name} was not calibrated with these weights and settings "
                f"(calibrated: {known}); run `unmemorize calibrate dedup` with this configuration"
            )
        if entry.min_similarity is None:
            raise ConfigError(
                f"{source}: encoder {name} has no threshold of precision {entry.target}; take it "
                "out of pairs.min_similarity or calibrate with a lower --precision"
            )
        return entry


def read_calibration(path: Path) -> Calibration:
    """Read the file; raise MissingInput or ConfigError with one line."""
    return read_record(path, Calibration, "calibrate dedup")


R = TypeVar("R", bound=Record)


def read_record(path: Path, kind: type[R], command: str) -> R:
    """Read a calibration that `command` wrote; raise MissingInput or ConfigError with one line."""
    if not path.is_file():
        raise MissingInput(f"{path}: no such calibration; `unmemorize {command}` writes one")
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_BYTES} bytes; not a calibration of ours")
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise ConfigError(f"{path}: {where}: {first['msg']}") from error
