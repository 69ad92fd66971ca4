"""Everything that a run depends on, and what of it must fit together."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pipeline.config.audit import Clusters, Generate, Match, Model, Probe, Prompts, Screen, Verdict
from pipeline.config.base import Count, Fraction, Section
from pipeline.config.dataset import Dataset, Demo, Scan
from pipeline.config.dedup import Borderline, Export, Groups, Pairs
from pipeline.config.encoders import GIVEN, MINILM, PIXELS, Captions, Embed, Index
from pipeline.config.erase import Erase
from pipeline.config.verify import Verify


class Report(Section):
    """What the report shows. `redact` blurs training pictures and hashes captions."""

    redact: bool = False
    max_findings: Count = 60
    max_groups: Count = 40


class Runner(Section):
    """Where parts run. `scheduler` is the address of a Dask cluster of the user's.

    `save_every` is the number of iterations between states of an eraser in training, from which a
    killed one goes on; null for none.
    """

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
    save_every: Count | None = 50


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
