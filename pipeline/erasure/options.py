"""What is particular to one method; defaults are the sources' where they name one.

No tensor library is imported here, so that a configuration is checked at once.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Start = Literal["caption", "gaussian", "other"]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AblateOptions(_Options):
    """Concept ablation: learn the frozen model's prediction under the anchor, or the noise."""

    variant: Literal["model", "noise"] = "model"


class SissOptions(_Options):
    """`mixture` is λ, `forget_ratio` the forgetting gradient's norm over the keeping one's.

    `clip` bounds the norm of their difference.
    """

    mixture: float = Field(0.5, gt=0, lt=1)
    forget_ratio: float = Field(0.1, ge=0)
    clip: float = Field(1.0, gt=0)


class AdversarialOptions(_Options):
    """The inner loop, and how often it runs.

    Every `refresh` iterations an embedding a target is found that draws it, from one of `starts`;
    the last `pool` of each are trained on, in a `share` of the examples.
    """

    starts: tuple[Start, ...] = Field(("caption", "gaussian"), min_length=1)
    inner_iterations: Count = 50
    inner_learning_rate: float = Field(0.1, gt=0)
    inner_batch: Count = 8
    inner_weighting: Literal["noise", "velocity"] = "noise"
    refresh: Count = 10
    pool: Count = 4
    share: Share = 0.5


class UceOptions(_Options):
    """λ, s_e and s_p of the closed form."""

    ridge: float = Field(0.5, gt=0)
    erase_scale: float = Field(1.0, ge=0)
    keep_scale: float = Field(1.0, ge=0)
