"""Which model a run audits, its fingerprint, and the parts that put captions to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.batches import batched
from pipeline.errors import UsageError
from pipeline.generation.backend import DiffusionModel, load_model
from pipeline.generation.loading import check_folder, resolve_model
from pipeline.io.digest import sha256_once
from pipeline.io.runfolder import part_name
from pipeline.runner.part import Context, Part, relative


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


def caption_parts(
    context: Context, captions: Sequence[dict[str, Any]], size: int, *, inputs: Sequence[str] = ()
) -> list[Part]:
    """One part a block of `size` captions; the model is its first input."""
    folder = model_folder(context)
    weights = sha256_once(folder)
    return [
        Part(
            part_name(number),
            (relative(folder, context.run), *inputs),
            {"prompts": list(block), "model": weights},
        )
        for number, block in enumerate(batched(captions, size))
    ]


def open_model(folder: Path, context: Context, fingerprint: str) -> DiffusionModel:
    """Load a model on the configured device, once a process."""
    config = context.config.model
    return load_model(folder, fingerprint=fingerprint, device=config.device, dtype=config.dtype)
