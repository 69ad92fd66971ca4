"""calibration.json of `calibrate audit`: thresholds by model fingerprint, and what they rest on."""

from pathlib import Path

from pydantic import Field

from pipeline.calibration.record import Rate, Record, read_record
from pipeline.config import Count, Fraction, Section
from pipeline.config import Verdict as VerdictConfig
from pipeline.detection.intervals import upper_bound
from pipeline.detection.posterior import Belief, Reference
from pipeline.detection.verdict import Thresholds
from pipeline.errors import ConfigError


class Controls(Section):
    """A detector's scores on the control captions: median, median absolute deviation."""

    centre: float
    deviation: float = Field(ge=0)


class Prior(Section):
    """The fields of pipeline.detection.posterior.Belief."""

    weights: tuple[float, float, float]
    alpha: tuple[float, float, float]
    beta: tuple[float, float, float]
    slope: float
    intercept: float


class ModelCalibration(Section):
    """One model: how its control captions come out, and the thresholds that this gives.

    `flagged`: controls with a verdict of verbatim or template at these thresholds.
    """

    model: str
    target: Fraction
    controls: Count
    flagged: Rate
    max_ratio: float = Field(gt=0, le=1)
    detectors: dict[str, Controls] = Field(default_factory=dict)
    prior: Prior

    def summary(self) -> str:
        """One line on what was reached, with the exact 95 % bound."""
        rate = self.flagged
        return (
            f"{self.model}: max_ratio {self.max_ratio}; {rate.hits} of {rate.n} controls flagged, "
            f"false positive rate below {upper_bound(rate.hits, rate.n):.1%} (95 %), "
            f"target {self.target:.1%}"
        )

    def belief(self) -> Belief:
        """What a caption's hits and score say under this calibration."""
        return Belief(**self.prior.model_dump())

    def reference(self, detector: str) -> Reference | None:
        """The scores of controls by one detector, where it was calibrated."""
        found = self.detectors.get(detector)
        return None if found is None else Reference(found.centre, found.deviation)


class AuditCalibration(Record):
    """The file."""

    models: dict[str, ModelCalibration]

    def of_model(self, fingerprint: str, *, source: Path) -> ModelCalibration:
        """A model's entry; raises ConfigError where there is none."""
        found = self.models.get(fingerprint)
        if found is None:
            known = ", ".join(sorted(entry.model for entry in self.models.values())) or "none"
            raise ConfigError(
                f"{source}: not calibrated for this model (for: {known}); run `unmemorize "
                "calibrate audit` on an audit of it"
            )
        return found


def read_audit_calibration(path: Path) -> AuditCalibration:
    """Read the file; raise MissingInput or ConfigError with one line."""
    return read_record(path, AuditCalibration, "calibrate audit")


def verdict_thresholds(
    config: VerdictConfig, calibration: ModelCalibration | None = None
) -> Thresholds:
    """The default thresholds, replaced by a model's calibration, and that by the configuration."""
    if calibration is not None and config.max_ratio is None:
        config = config.model_copy(update={"max_ratio": calibration.max_ratio})
    return Thresholds(**config.model_dump(exclude_none=True, exclude={"calibration"}))
