"""The audited model, what it is asked, and how its answers are judged."""

from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.base import Cosine, Count, Fraction, Section


class Model(Section):
    """The audited model: a diffusers folder or a hub id.

    `lora` is PATH or PATH:SCALE, safetensors on this machine, merged into the weights. `resolution`
    is the side of the pictures in pixels, by default that of the model. Half precision and
    `compile` are for CUDA devices.
    """

    path: str | None = None
    revision: str | None = None
    lora: str | None = None
    device: str = "cpu"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    resolution: Count | None = None
    compile: bool = False

    @model_validator(mode="after")
    def _fits_the_device(self) -> "Model":
        if not self.device.startswith("cuda"):
            if self.dtype != "float32":
                raise ValueError(f"dtype {self.dtype}: for a CUDA device; use float32")
            if self.compile:
                raise ValueError("compile: for a CUDA device")
        return self


class Prompts(Section):
    """Captions to audit: those of the largest groups, and of pictures seen once as controls.

    `file`: captions of the user's instead, a list or shards. `sample`: so many of them, or of all
    captions of the training set, drawn by hash. `images`: a list of training images, whose groups'
    captions are audited.
    """

    file: Path | None = None
    images: Path | None = None
    sample: Count | None = None
    min_copies: int = Field(2, ge=2)
    max_groups: Count = 1000
    max_captions_per_group: Count = 3
    placeholders: bool = False
    controls: int = Field(48, ge=0)


class Screen(Section):
    """The noise predictions that are scored: the first sampling steps (Wen et al. 2024), and a late
    one on the first noise (Asthana et al. 2026). Two forwards a seed each."""

    seeds: Count = 4
    steps: Count = 3
    late_step: bool = True
    batch_size: Count = 32


class Probe(Section):
    """Detectors that ask the model more than `screen` does; off unless they are named here.

    What each costs is in pipeline/stages/probe.py. The papers take 4 seeds for edges, 10 for
    seed_agreement, 1 for the entropies and 16 for bright_ending.
    """

    detectors: tuple[
        Literal[
            "edges",
            "sharpness",
            "attention_entropy_first",
            "attention_entropy",
            "bright_ending",
            "seed_agreement",
        ],
        ...,
    ] = ()
    edge_seeds: Count = 4
    attention_seeds: Count = 4
    agreement_seeds: int = Field(10, ge=2)
    batch_size: Count = 16


class Generate(Section):
    """How many pictures are drawn a prompt, and how.

    `rounds`: after so many pictures a caption's verdict is looked at, and the caption is drawn on
    only while it is open: neither found nor memorized with a probability below `stop_below`.
    `max_forwards`: the budget of UNet forwards, those of the screen included. With `folder`, none:
    pictures that another generator made are taken from there, a folder or tars.

    A model without captions draws `samples` pictures in all. `guidance` is told to a distilled
    model (FLUX dev), which `true_cfg` above 1 guides by a negative prompt as well.
    """

    per_prompt: Count = 16
    rounds: tuple[Count, ...] = Field((), max_length=4)
    stop_below: Fraction = 0.02
    max_forwards: Count | None = None
    samples: Count = 1024
    scheduler: str = "default"
    steps: Count = 25
    guidance: float = Field(2.0, ge=0)
    true_cfg: float = Field(1.0, ge=1)
    negative_prompt: str = ""
    batch_size: Count = 32
    prompts_per_part: Count = 16
    folder: Path | None = None

    @property
    def schedule(self) -> list[range]:
        """The numbers of the pictures of a caption that each round draws."""
        ends = [end for end in self.rounds if end < self.per_prompt]
        return [range(start, end) for start, end in pairwise([0, *ends, self.per_prompt])]


class Match(Section):
    """Nearest training pictures of each generation: of each encoder so many `candidates` out of the
    whole index. The 50 neighbours of l2_ratio_50nn are the nearest of these."""

    encoders: tuple[str, ...] = ("lite0", "pixels")
    candidates: Count = 50
    keep: Count = 3
    compare_px: int = Field(32, ge=8, le=1024)


class Clusters(Section):
    """Density clusters of each caption's generations, in a descriptor of embed.encoders; off
    without one. MemBench's eps and size are for SSCD, three of 50 generations."""

    encoder: str | None = None
    eps: float = Field(0.5, ge=0, le=2)
    min_size: int = Field(3, ge=2)


class Verdict(Section):
    """Thresholds that replace the defaults of pipeline.detection.verdict.Thresholds.

    `calibration`: a file of `calibrate audit`, whose thresholds stand where none is given here.
    """

    calibration: Path | None = None

    max_tiled_l2: float | None = Field(None, ge=0, le=1)
    max_l2: float | None = Field(None, ge=0, le=1)
    certain_tiled_l2: float | None = Field(None, ge=0, le=1)
    max_ratio: float | None = Field(None, gt=0)
    max_l2_ratio_50nn: float | None = Field(None, gt=0)
    max_masked_l2: float | None = Field(None, ge=0, le=1)
    copy_similarity: Cosine | None = None
    clique_epsilon: float | None = Field(None, ge=0, le=1)
    clique_fraction: Fraction | None = None
    min_hits: Count | None = None
