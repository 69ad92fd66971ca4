"""Which model a run audits, and its fingerprint."""

from pathlib import Path

from pipeline.errors import UsageError
from pipeline.generation.backend import DiffusionModel, load_model
from pipeline.generation.loading import check_folder, resolve_model
from pipeline.runner.part import Context


def model_folder(context: Context) -> Path:
    """The audited model: the configured one, or that of the demo in the run folder.

    Raises ModelError for a folder that must not be loaded.
    """
    name = context.config.model.path
    folder = context.run / "model"
    if name is not None:
        folder = resolve_model(name, revision=context.config.model.revision)
    elif not folder.is_dir():
        raise UsageError("no model: give --model FOLDER, or model.path in the config")
    check_folder(folder)
    return folder


def open_model(folder: Path, context: Context, fingerprint: str) -> DiffusionModel:
    """Load a model on the configured device, once a process."""
    config = context.config.model
    return load_model(folder, fingerprint=fingerprint, device=config.device, dtype=config.dtype)
