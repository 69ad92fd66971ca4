"""The pictures: where they are, what they may be, and how the demo plants its own."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Count, Section


class Dataset(Section):
    """The training set: tar shards in the img2dataset layout.

    With `embeddings`, the addresses of `shards` are those of vectors instead: clip-retrieval's
    folders, or Parquet files.
    """

    name: str = "train"
    shards: tuple[str, ...] = ()
    embeddings: bool = False


class Demo(Section):
    """The demo's planted training set and its model."""

    copies: tuple[Count, ...] = (1, 2, 4, 8, 16, 32, 64)
    pictures_per_level: Count = 12
    base_pictures: Count | None = None
    steps: Count = 2000
    threads: Count = 2
    truth_seeds: Count = 16


class Scan(Section):
    """What a picture may be, and what is done with a damaged shard."""

    formats: tuple[Literal["JPEG", "PNG", "WEBP"], ...] = ("JPEG", "PNG", "WEBP")
    max_pixels: int = Field(64_000_000, ge=1, le=178_000_000)
    max_bytes: Count = 64_000_000
    max_caption_chars: Count = 4096
    damaged: Literal["quarantine", "fail"] = "quarantine"
