"""Which model a run audits, and its fingerprint."""

from pathlib import Path

from pipeline.errors import UsageError
from pipeline.generation.backend import DiffusionModel, load_model
from pipeline.generation.loading import resolve_model
from pipeline.runner.part import Context


def model_folder(context: Context) -> Path:
    """The audited model: the configured one, or that of the demo in the run folder."""
    name = context.config.model.path
    if name is not None:
        return resolve_model(name, revision=context.config.model.revision)
    own = context.run / "model"
    if not own.is_dir():
        raise UsageError("no model: give --model FOLDER, or model.path in the config")
    return own


def open_model(folder: Path, context: Context, fingerprint: str) -> DiffusionModel:
    """Load a model on the configured device, once a process."""
    config = context.config.model
    return load_model(folder, fingerprint=fingerprint, device=config.device, dtype=config.dtype)
