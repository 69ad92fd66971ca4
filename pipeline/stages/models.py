"""Which model a run audits, its fingerprint, and the parts that put captions to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.batches import batched
from pipeline.errors import UsageError
from pipeline.generation.backend import DiffusionModel, load_model
from pipeline.generation.loading import (
    check_folder,
    draws_without_captions,
    load_scheduler,
    resolve_model,
)
from pipeline.generation.lora import Lora, parse_lora
from pipeline.generation.schedulers import require_usable
from pipeline.io.digest import canonical_sha256, sha256_once
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


def model_lora(context: Context) -> Lora | None:
    """The LoRA that the audited model is adapted with; see `parse_lora` for errors."""
    name = context.config.model.lora
    return None if name is None else parse_lora(name)


def model_fingerprint(context: Context) -> str:
    """SHA-256 of the audited model's files, with those of its LoRA."""
    weights, lora = sha256_once(model_folder(context)), model_lora(context)
    if lora is None:
        return weights
    return canonical_sha256([weights, sha256_once(lora.path), lora.scale])


def model_inputs(context: Context) -> tuple[str, ...]:
    """The files of the audited model as inputs of a part: its folder, and its LoRA if any."""
    lora = model_lora(context)
    adapted = () if lora is None else (relative(lora.path, context.run),)
    return relative(model_folder(context), context.run), *adapted


def require_sampler(context: Context) -> None:
    """Raise ConfigError, before anything is drawn, for a scheduler that the model cannot use."""
    how = context.config.generate
    require_usable(how.scheduler, load_scheduler(model_folder(context)), how.steps)


def unconditional(context: Context) -> bool:
    """Whether the audited model draws without captions, by its index alone."""
    return draws_without_captions(model_folder(context))


def caption_parts(
    context: Context, captions: Sequence[dict[str, Any]], size: int, *, inputs: Sequence[str] = ()
) -> list[Part]:
    """One part a block of `size` captions; the model is its first input."""
    files, weights = model_inputs(context), model_fingerprint(context)
    return [
        Part(
            part_name(number),
            (*files, *inputs),
            {"prompts": list(block), "model": weights},
        )
        for number, block in enumerate(batched(captions, size))
    ]


def open_audited(part: Part, context: Context) -> DiffusionModel:
    """Load the audited model, the first input of `part`, with its LoRA; once a process."""
    folder = context.path(part.inputs[0])
    return open_model(folder, context, part.params["model"], lora=model_lora(context))


def open_model(
    folder: Path, context: Context, fingerprint: str, *, lora: Lora | None = None
) -> DiffusionModel:
    """Load a model on the configured device, once a process."""
    config = context.config.model
    return load_model(
        folder,
        fingerprint=fingerprint,
        device=config.device,
        dtype=config.dtype,
        lora=lora,
        resolution=config.resolution,
        compiled=config.compile,
    )
