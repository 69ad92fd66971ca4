"""Opening a diffusers model that a stranger made, without running a line of the stranger's code.

A folder is refused when it holds Python files, names a class outside diffusers and transformers,
or has weights only as pickles. Hub models are first downloaded to a pinned snapshot and then
checked and loaded from disk (CVE-2026-44513 and CVE-2026-45804: checks that run before a second
download can be bypassed).
"""

import json
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import (
    MissingInput,
    ModelError,
    RemoteCodeRefused,
    UnsafeWeights,
    first_line,
)
from pipeline.io.digest import files_under
from pipeline.weights import require_finite

_LIBRARIES = {"diffusers", "transformers", "stable_diffusion"}
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]
_NOT_LOADED = ("safety_checker", "feature_extractor")
_MAX_JSON_BYTES = 1 << 20


def resolve_model(name: str, *, revision: str | None = None) -> Path:
    """Return the local folder of a model: `name` itself, or the hub snapshot of an id."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name.startswith(("/", ".")) or name.count("/") != 1:
        raise MissingInput(f"{name}: no such model folder")
    from huggingface_hub import snapshot_download  # noqa: PLC0415  only where a hub is asked for

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED))
    except Exception as error:
        reason = first_line(error)
        raise MissingInput(
            f"{name}: not a folder, nor to be had from the hub ({reason})"
        ) from error


def check_folder(folder: Path) -> None:
    """Raise unless `folder` is a diffusers pipeline that is safe to load."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise MissingInput(f"{folder}: no model_index.json; give a diffusers pipeline folder")
    scripts = [path.name for path in files_under(folder) if path.suffix.lower() == ".py"]
    if scripts:
        raise RemoteCodeRefused(f"{folder}: holds code ({scripts[0]}); only weights are loaded")
    _check_classes(index, _read_json(index))
    for component in _components(_read_json(index)):
        _check_weights(folder / component)
        _check_config(folder / component / "config.json")


def draws_without_captions(folder: Path) -> bool:
    """Whether a checked folder is an unconditional pipeline, which has no words to read."""
    index = _read_json(folder / "model_index.json")
    unet = index.get("unet")
    return isinstance(unet, list) and unet[-1:] == ["UNet2DModel"]


def load_scheduler(folder: Path) -> Any:
    """The scheduler of a checked folder, without its weights; raises MissingInput without one."""
    import diffusers  # noqa: PLC0415  slow to import

    named: Any = _read_json(folder / "model_index.json").get("scheduler")
    try:
        kind = getattr(diffusers, named[1])
        return kind.from_pretrained(str(folder), subfolder="scheduler", local_files_only=True)
    except Exception as error:  # whatever a stranger's settings set off in there
        raise MissingInput(f"{folder}: no scheduler to load ({first_line(error)})") from error


def load_pipeline(folder: Path, *, device: str, dtype: torch.dtype) -> Any:
    """Load a checked folder as a diffusers pipeline on `device`, without its safety checker.

    The checker is left out because it answers with black frames, which look like duplicates of
    each other. Raises NonFiniteWeights where a parameter is NaN or infinite.
    """
    from diffusers import DiffusionPipeline  # noqa: PLC0415  slow to import, and not always needed

    check_folder(folder)
    _quiet_libraries()
    index = _read_json(folder / "model_index.json")
    try:
        pipe = DiffusionPipeline.from_pretrained(
            str(folder),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **{name: None for name in index if name in _NOT_LOADED or index[name] == [None, None]},
            **_load_text_models(folder, index, dtype),
        )
    except ModelError:
        raise
    except Exception as error:  # whatever a stranger's settings set off in there
        raise MissingInput(f"{folder}: diffusers cannot load it ({first_line(error)})") from error
    for name, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            require_finite(module, f"{folder}/{name}")
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _quiet_libraries() -> None:
    """No progress bars and advice of libraries between the lines of our own."""
    import diffusers  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def _load_text_models(folder: Path, index: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Load what comes from transformers, which fills missing tensors at random with a mere warning.

    Raises ModelError naming the first one.
    """
    import transformers  # noqa: PLC0415

    loaded = {}
    for name in _components(index):
        library, kind = index[name]
        model_class: Any = getattr(transformers, kind) if library == "transformers" else None
        if not hasattr(model_class, "forward"):  # a tokenizer, or another library's
            continue
        model, info = model_class.from_pretrained(
            folder / name,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if missing := sorted(info["missing_keys"]):
            raise ModelError(f"{folder}/{name}: {missing[0]} is not in the weights; fetch it again")
        loaded[name] = model.to(dtype)
    return loaded


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise MissingInput(f"{path}: larger than {_MAX_JSON_BYTES} bytes")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise MissingInput(f"{path}: not JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise MissingInput(f"{path}: not a JSON object")
    return value


def _components(index: dict[str, Any]) -> list[str]:
    return [
        name
        for name, value in index.items()
        if not name.startswith("_")
        and name not in _NOT_LOADED
        and isinstance(value, list)
        and any(value)
    ]


def _check_classes(path: Path, index: dict[str, Any]) -> None:
    import diffusers  # noqa: PLC0415

    pipeline_class = index.get("_class_name")
    if not isinstance(pipeline_class, str) or not hasattr(diffusers, pipeline_class):
        raise RemoteCodeRefused(f"{path}: {pipeline_class!r} is not a pipeline of diffusers")
    for name in _components(index):
        source = index[name]
        if not name.isidentifier() or not all(isinstance(part, str) for part in source):
            raise RemoteCodeRefused(f"{path}: {name!r} is not a component of a pipeline")
        if len(source) != 2 or source[0] not in _LIBRARIES:
            raise RemoteCodeRefused(f"{path}: {name} comes from {source[0]!r}, not from diffusers")


def _check_config(path: Path) -> None:
    if path.is_file() and "auto_map" in _read_json(path):
        raise RemoteCodeRefused(f"{path}: its auto_map names code; only weights are loaded")


def _check_weights(component: Path) -> None:
    if not component.is_dir():
        return
    suffixes = {path.suffix for path in component.iterdir()}
    if suffixes & _PICKLES and ".safetensors" not in suffixes:
        raise UnsafeWeights(
            f"{component}: only pickled weights; convert them to safetensors (a pickle runs code)"
        )
