"""What is erased, how, and until when."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.base import Count, Fraction, Section
from pipeline.erasure.attacks.budgets import EmbeddingBudget
from pipeline.erasure.options import AblateOptions, AdversarialOptions, SissOptions, UceOptions


class EraseMethod(Section):
    """One eraser; `name` is its folder.

    Iterations and learning rate are the paper's for Stable Diffusion (Gandikota et al. 2023); a
    small model wants fewer and larger steps. What is not given is the trainer's default.
    """

    name: str = Field(pattern="^[a-z0-9-]{1,40}$")
    objective: Literal["esd", "esd-gt", "ablate", "retrack", "siss", "adversarial", "uce"]
    parameters: Literal["x", "x-strict", "u", "full"] | None = None
    eta: float | None = Field(None, ge=0)
    iterations: Count = 1000
    learning_rate: float = Field(1e-5, gt=0)
    batch: Count = 8
    retain_weight: float | None = Field(None, ge=0)
    trajectories: Literal["edited", "frozen"] | None = None
    weighting: Literal["noise", "velocity"] | None = None
    erase_unconditional: bool = False
    ablate: AblateOptions | None = None
    siss: SissOptions | None = None
    adversarial: AdversarialOptions | None = None
    uce: UceOptions | None = None

    @model_validator(mode="after")
    def _own_options(self) -> "EraseMethod":
        for name in ("ablate", "siss", "adversarial", "uce"):
            if getattr(self, name) is not None and name != self.objective:
                raise ValueError(f"{name}: options of another objective than {self.objective}")
        return self


class Stop(Section):
    """When an eraser has done enough: it is looked at every so many iterations.

    It ends where the upper 95 % bound of the rate at which fresh drawings of the trained captions
    show their pictures is `max_rate` or less, and at most `max_attacked` of the attempts of
    `attack`, if there is one, bring a picture back.
    """

    every: Count = 25
    max_rate: float = Field(0.05, gt=0, lt=1)
    attack: EmbeddingBudget | None = None
    max_attacked: Fraction = 0.1


class Erase(Section):
    """What is erased, and how: findings, or else `concepts` (captions) and the list `targets`.

    With `stop`, `iterations` are the most that a method takes.
    """

    methods: tuple[EraseMethod, ...] = (
        EraseMethod(name="esd-x", objective="esd", parameters="x"),
        EraseMethod(name="esd-gt", objective="esd-gt", parameters="u"),
    )
    max_groups: Count | None = None
    verdicts: tuple[Literal["verbatim", "template"], ...] = ("verbatim",)
    held_out_captions: Fraction = 0.5
    stop: Stop | None = None
    concepts: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = ()
    targets: str | None = None

    @field_validator("methods")
    @classmethod
    def _distinct(cls, value: tuple[EraseMethod, ...]) -> tuple[EraseMethod, ...]:
        names = [method.name for method in value]
        if len(set(names)) != len(names):
            raise ValueError("two methods have the same name")
        return value
