"""How each mitigation draws; defaults are the sources' where they name one.

No tensor library is imported here, so that a configuration is checked at once.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str | None = Field(None, pattern="^[a-z0-9.-]{1,40}$")


class WenOptions(_Options):
    """Wen et al. 2024: move the embedding until ||ε_c - ε_∅|| <= `target` at the first step.

    The authors bound the norm of four pictures together, by 3, which is 1.5 of one. It grows with
    the root of the number of latent pixels: theirs are 4 x 64 x 64.
    """

    kind: Literal["wen"] = "wen"
    target: float = Field(1.5, gt=0)
    learning_rate: float = Field(0.05, gt=0)
    iterations: Count = 10


class CaptionOptions(_Options):
    """Somepalli et al. 2023: `count` random changes of a caption, or noise on its embedding.

    `replace` and `add` take random words of the tokenizer's `vocabulary` or of other `captions`,
    `number` adds numbers below 100,000, `repeat` words of the caption itself; `gaussian` adds noise
    of the standard deviation `noise` to the embedding.
    """

    kind: Literal["caption"] = "caption"
    change: Literal["replace", "add", "number", "repeat", "gaussian"] = "add"
    words: Literal["vocabulary", "captions"] = "vocabulary"
    count: Count = 4
    noise: float = Field(0.1, gt=0)


class TransitionOptions(_Options):
    """Jain et al. 2025: the guidance weight is `before` until a transition point.

    With a `share`, that share of the steps; without one, until each picture's guidance has passed
    its first minimum, or after the share `latest` at the latest. `before` is 1 for the caption
    without guidance, 0 for no caption, and may be negative ("opposite guidance").
    """

    kind: Literal["transition"] = "transition"
    share: Share | None = None
    latest: Share = 1.0
    before: float = 0.0


class AttentionOptions(_Options):
    """Ren et al. 2024: hide the padding after a caption from cross-attention, `end` token included
    if asked for, and multiply the logit of the first token by `first`."""

    kind: Literal["attention"] = "attention"
    first: float = Field(1.25, ge=0)
    end: bool = False


Mitigation = Annotated[
    WenOptions | CaptionOptions | TransitionOptions | AttentionOptions, Field(discriminator="kind")
]


def label(options: Mitigation) -> str:
    """What a mitigation is called in tables: its name, or its kind and what tells it apart."""
    if options.name is not None:
        return options.name
    match options:
        case CaptionOptions():
            return f"caption-{options.change}"
        case TransitionOptions():
            point = "minimum" if options.share is None else f"{options.share:g}"
            return f"transition-{point}"
        case _:
            return options.kind
