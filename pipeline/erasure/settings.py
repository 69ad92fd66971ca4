"""How to erase: what every method shares, and the options of each."""

from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import BaseModel

from pipeline.erasure.options import AblateOptions, AdversarialOptions, SissOptions, UceOptions
from pipeline.errors import ConfigError

METHODS = ("esd", "esd-gt", "ablate", "retrack", "siss", "adversarial", "uce")


@dataclass(frozen=True)
class Settings:
    """How to erase.

    `method` is one of METHODS; `parameters` a group of `pipeline.erasure.parameters`; `eta` the η
    of the paper. `retain_weight` is ρ, 0 for none. The empty prompt is retained as well, unless
    `erase_unconditional` asks to teach it the targets, in half of the examples (SISS does not).
    `trajectories` says whose samples "esd" trains on: "edited" as in the paper, or "frozen",
    drawn once before training, `trajectories_each` for a caption. `steps` and `guidance` are of
    those samples.
    """

    method: str = "esd"
    parameters: str = "x"
    eta: float = 1.0
    iterations: int = 90
    learning_rate: float = 3e-4
    batch: int = 32
    retain_weight: float = 10.0
    erase_unconditional: bool = False
    trajectories: str = "frozen"
    trajectories_each: int = 8
    steps: int = 25
    guidance: float = 3.0
    weighting: str = "velocity"
    seed: int = 0
    ablate: AblateOptions = field(default_factory=AblateOptions)
    siss: SissOptions = field(default_factory=SissOptions)
    adversarial: AdversarialOptions = field(default_factory=AdversarialOptions)
    uce: UceOptions = field(default_factory=UceOptions)

    def __post_init__(self) -> None:
        _one_of("method", self.method, *METHODS)
        _one_of("trajectories", self.trajectories, "edited", "frozen")
        _one_of("weighting", self.weighting, "noise", "velocity")

    def facts(self) -> dict[str, Any]:
        """The settings as JSON, of the options those of the method alone."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            for name, value in values.items()
            if not isinstance(value, BaseModel) or name == self.method
        }


def _one_of(field: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise ConfigError(f"{field} {value!r}: one of {', '.join(allowed)}")
