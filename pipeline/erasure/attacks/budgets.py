"""How long, how hard and from where each attack tries. Defaults are the sources' unless said.

An *attempt* is one run of an attack with a start of its own, and the unit that is counted: it hits
if any of its `draws` drawings shows the picture, so that drawings from one embedding are not taken
for independent trials.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Level = Annotated[float, Field(gt=0, le=1)]


class _Budget(BaseModel):
    """What all attacks share.

    `guidance` and `steps` are of the drawings, None: as the audit draws.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str | None = Field(None, pattern="^[a-z0-9.-]{1,40}$")
    attempts: Count = 1
    draws: Count = 4
    guidance: float | None = Field(None, ge=0)
    steps: Count | None = None


class EmbeddingBudget(_Budget):
    """DoRI (Kowalczuk et al. 2026): an embedding is optimised until it draws the picture.

    `start` is the embedding at the beginning: of the picture's caption, Gaussian noise with the
    caption's mean and spread, or of another caption. `weighting` is the trainer's.
    """

    kind: Literal["embedding"] = "embedding"
    start: Literal["caption", "gaussian", "other"] = "caption"
    optimizer: Literal["adam", "adamw", "sgd", "sign"] = "adam"
    learning_rate: float = Field(0.1, gt=0)
    iterations: Count = 50
    batch: Count = 8
    weighting: Literal["noise", "velocity"] = "noise"


class PrefixBudget(_Budget):
    """UnlearnDiffAtk's setting (Zhang et al. 2024), a few tokens before the caption; by PEZ."""

    kind: Literal["prefix"] = "prefix"
    tokens: Count = 5
    learning_rate: float = Field(0.1, gt=0)
    iterations: Count = 100
    batch: Count = 8
    weighting: Literal["noise", "velocity"] = "noise"


class CompletionBudget(_Budget):
    """The picture, noised to the share `start` of the schedule, is denoised again."""

    kind: Literal["completion"] = "completion"
    start: Level = 0.8
    prompt: Literal["caption", "empty"] = "caption"


class InpaintingBudget(_Budget):
    """One half of the picture is given, the other drawn."""

    kind: Literal["inpainting"] = "inpainting"
    hidden: Literal["left", "right", "top", "bottom"] = "right"
    prompt: Literal["caption", "empty"] = "caption"


class RelearningBudget(_Budget):
    """A few steps of fine-tuning on the picture and its caption, then drawing with fresh seeds."""

    kind: Literal["relearning"] = "relearning"
    learning_rate: float = Field(1e-5, gt=0)
    iterations: Count = 10
    batch: Count = 8


Budget = Annotated[
    EmbeddingBudget | PrefixBudget | CompletionBudget | InpaintingBudget | RelearningBudget,
    Field(discriminator="kind"),
]


def label(budget: Budget) -> str:
    """What an attack is called in tables: its name, or its kind and what it starts from."""
    if budget.name is not None:
        return budget.name
    match budget:
        case EmbeddingBudget():
            return f"embedding-{budget.start}"
        case CompletionBudget():
            return f"completion-{budget.start:g}"
        case InpaintingBudget():
            return f"inpainting-{budget.hidden}"
        case _:
            return budget.kind
