"""What is built: the sets, the models and where everything lies."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.generation.backend import Sampling
from tests.bench.audit.planting import Plan


@dataclass(frozen=True)
class Scale:
    """The size of the benchmark; the defaults are the whole, `SMOKE` a minute of it."""

    steps: int = 2000
    autoencoder_steps: int = 1000
    per_level: int = 5
    copies: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    pictures: int | None = None  # that are there once; all
    singles: int = 150  # of which the truth is known
    seeds: int = 32
    per_prompt: int = 16
    controls: int = 300  # captions that the verdict is calibrated on
    unconditional_steps: int = 4000
    unconditional_drawn: int = 2048
    counterfactual: bool = True


SMOKE = Scale(
    steps=240,
    per_level=1,
    copies=(1, 32),
    pictures=40,
    singles=10,
    seeds=6,
    per_prompt=6,
    controls=30,
    unconditional_steps=20,
    unconditional_drawn=16,
    counterfactual=False,
)
SMOKE_MODELS = ("clipart-0",)


@dataclass(frozen=True)
class Bench:
    """The whole of a run: `models` are named SOURCE-SEED; the first also trains the counterfactual.

    `photos`: a folder whose pictures are the source called photos. `variant` names one more audit,
    with the options `extra`.
    """

    work: Path
    models: tuple[str, ...]
    scale: Scale
    photos: Path | None = None
    extra: tuple[str, ...] = ()
    variant: str | None = None
    how: Sampling = field(default=Sampling("dpmsolver++", 10, 2.0))

    @property
    def counterfactual(self) -> str:
        return f"{self.models[0]}-dedup"

    @property
    def unconditional(self) -> str:
        return f"{self.models[0]}-unconditional"

    def source(self, model: str) -> str:
        """What open_source takes."""
        name, _ = model.split("-", 1)
        return str(self.photos) if name == "photos" else name

    def plan(self, model: str) -> Plan:
        """What is planted for a model."""
        scale = self.scale
        return Plan(int(model.split("-")[1]), scale.per_level, scale.copies, scale.pictures)

    def set_of(self, model: str) -> str:
        """The planted set of a model; the counterfactual is asked about its original's."""
        return "-".join(model.split("-")[:2])

    def at(self, kind: str, name: str) -> Path:
        """The folder of one thing: sets, models, dedup, truth, audit ..."""
        return self.work / kind / name
