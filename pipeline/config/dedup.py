"""Near-duplicates: which pictures are pairs, which of a group is kept, what is exported."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from pipeline.config.base import Cosine, Count, Section

QUALITIES = ("resolution", "bytes", "first")
COLUMN = "column:"
"""What stands before the name of a quality that is a column of the user's."""


class Pairs(Section):
    """When two pictures are near-duplicates: least cosine by encoder, most PDQ bits.

    By PDQ a picture is also compared as what its uniform border encloses (`trimmed`), and with the
    mirrored other one, each where `pdq_variants` says so. Leave `mirrored` out where left and right
    make two pictures, as of arrows and signs.

    Descriptors and PDQ are nearly blind to colour. Where `max_pixel_l2` is given, their pairs must
    also agree in colour and layout, by the `pixels` encoder: right for drawings, whose recoloured
    variants are other pictures; wrong for photographs that may be cropped,
    mirrored or given a border.

    Up to `exact_up_to` pictures all are compared with all; above, each vector visits those of the
    `probes` nearest of `cells` (4 sqrt(n) by default) whose border is near: as near as `reach` of
    the distance of two vectors at the threshold. Beyond 0.5 nothing more can be found; differences
    that lie in one or two directions need as much. `recall_sample` pictures tell what is missed.
    Where more than `hub_size` pictures are near-duplicates of one and of each other, only the pairs
    with that one are listed (0: all pairs always; so it is with `max_pixel_l2`, too). A part of the
    join that finds more than `max_pairs` ends with an error.
    `calibration` is the file of `calibrate dedup`: its thresholds take the place of those here, for
    PDQ and for each encoder that `min_similarity` names.
    """

    min_similarity: dict[str, Cosine] = Field(default_factory=lambda: {"lite0": 0.92})
    pdq_max_distance: int = Field(31, ge=0, le=256)
    pdq_min_quality: float = Field(50, ge=0, le=100)
    pdq_variants: tuple[Literal["mirrored", "trimmed"], ...] = ("mirrored", "trimmed")
    max_pixel_l2: float | None = Field(None, ge=0, le=1)
    calibration: Path | None = None
    rows_per_part: Count = 50_000
    exact_up_to: int = Field(200_000, ge=0)
    cells: Count | None = None
    probes: Count = 32
    reach: float = Field(0.25, gt=0, le=0.5)
    recall_sample: int = Field(500, ge=0)
    hub_size: int = Field(1000, ge=0)
    max_pairs: Count = 50_000_000


class Borderline(Section):
    """Pictures that nearly are a pair are aligned and compared (pipeline.geometry).

    Of each picture the `neighbours` nearest below the threshold of its encoder, at most `margin`
    below it; 0 neighbours: none. Measured on lite0: this margin holds crops, borders and writing;
    0.6 and 60 neighbours a part of the pictures that were pasted into others. The strongest
    `keypoints` of a picture are compared, and of those `inliers` must agree on one alignment: with
    more to choose from, more agree by chance.
    """

    neighbours: int = Field(10, ge=0)
    margin: float = Field(0.24, gt=0, le=2)
    keypoints: int = Field(150, ge=10, le=5000)
    inliers: int = Field(10, ge=3)


class Groups(Section):
    """How the kept picture of a group is chosen, and what counts as a placeholder.

    `quality` is resolution, bytes, first (in the order of shards), or `column:NAME`: a column of
    numbers in the shards' Parquet or json, or in the table beside given vectors. The largest value
    is best, with `ascending` the smallest; a picture without one is worst. What an earlier run kept
    stays, where this one is `onto` it, unless `rechoose`.

    "No image" pictures come in thousands, each with another caption: a group of at least
    `placeholder_size` whose captions differ in half of its rows.

    A part of the stage `survivors` takes groups of about `rows_per_part` pictures and pairs. The
    components' pointers (4 bytes a picture) lie on disk where they are more than `max_memory_gb`.
    """

    quality: str = "resolution"
    ascending: bool = False
    rechoose: bool = False
    placeholder_size: Count = 1000
    rows_per_part: Count = 2_000_000
    max_memory_gb: float = Field(4.0, ge=0)

    @field_validator("quality")
    @classmethod
    def _known_quality(cls, value: str) -> str:
        if value not in QUALITIES and not value.removeprefix(COLUMN):
            raise ValueError(f"{COLUMN}NAME needs a name")
        if value not in QUALITIES and not value.startswith(COLUMN):
            raise ValueError(f"one of {', '.join(QUALITIES)}, or {COLUMN}{value}")
        return value

    @property
    def column(self) -> str | None:
        """The column that tells the quality."""
        return self.quality.removeprefix(COLUMN) if self.quality.startswith(COLUMN) else None


class Export(Section):
    """The deduplicated training set."""

    write_shards: bool = True
