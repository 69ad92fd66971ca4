"""The configuration of a run: one YAML file, its sections in a module each by what they are for."""

from pipeline.config.audit import Clusters, Generate, Match, Model, Probe, Prompts, Screen, Verdict
from pipeline.config.base import Cosine, Count, Fraction, Section
from pipeline.config.dataset import Dataset, Demo, Scan
from pipeline.config.dedup import COLUMN, QUALITIES, Borderline, Export, Groups, Pairs
from pipeline.config.encoders import COPY, GIVEN, MINILM, PIXELS, Captions, Embed, Encoder, Index
from pipeline.config.erase import Erase, EraseMethod, Stop
from pipeline.config.loading import load_config, make_config, override_value, read_yaml
from pipeline.config.run import Report, RunConfig, Runner, joined_encoders
from pipeline.config.verify import Verify

__all__ = [
    "COLUMN",
    "COPY",
    "GIVEN",
    "MINILM",
    "PIXELS",
    "QUALITIES",
    "Borderline",
    "Captions",
    "Clusters",
    "Cosine",
    "Count",
    "Dataset",
    "Demo",
    "Embed",
    "Encoder",
    "Erase",
    "EraseMethod",
    "Export",
    "Fraction",
    "Generate",
    "Groups",
    "Index",
    "Match",
    "Model",
    "Pairs",
    "Probe",
    "Prompts",
    "Report",
    "RunConfig",
    "Runner",
    "Scan",
    "Screen",
    "Section",
    "Stop",
    "Verdict",
    "Verify",
    "joined_encoders",
    "load_config",
    "make_config",
    "override_value",
    "read_yaml",
]
