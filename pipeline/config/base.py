"""What every section of the configuration is, and the numbers that are in many."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Cosine = Annotated[float, Field(gt=-1, le=1)]


class Section(BaseModel):
    """Frozen; an unknown field is a mistake, and so is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
