"""Low-rank adaptations (Hu et al. 2022), merged into the weights they adapt.

    W' = W + scale (α / r) B A

Merged, an adapted model is a model like any other: it is drawn, screened, compiled and erased in
the same way. The file is safetensors, on this machine; diffusers reads it through PEFT.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import MissingInput, ModelError, UnsafeWeights, UsageError, first_line
from pipeline.weights import require_finite

_STANDARD = "pytorch_lora_weights.safetensors"
_ADAPTER = "audited"


@dataclass(frozen=True)
class Lora:
    """One safetensors file and how strongly it is applied."""

    path: Path
    scale: float = 1.0


def parse_lora(text: str) -> Lora:
    """The LoRA that `path[:scale]` names: a safetensors file, or a folder that holds one.

    Raises UsageError for a scale that is no number, MissingInput where nothing is there, and
    UnsafeWeights for a pickle.
    """
    path, scale = Path(text), 1.0
    if not path.exists() and ":" in text:
        name, _, number = text.rpartition(":")
        try:
            path, scale = Path(name), float(number)
        except ValueError as error:
            raise UsageError(f"model.lora {text}: {number!r} is not a scale") from error
        if not -100 <= scale <= 100:  # not for NaN either
            raise UsageError(f"model.lora {text}: a scale of {number}")
    return Lora(_file(path), scale)


def _file(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        standard = path / _STANDARD
        if standard in found or len(found) == 1:
            return standard if standard in found else found[0]
        if found:
            raise UsageError(f"model.lora {path}: holds {len(found)} files; name one of them")
        if any(file.suffix in {".bin", ".pt", ".pth", ".ckpt"} for file in path.iterdir()):
            raise _unsafe(path)
        raise MissingInput(f"model.lora {path}: holds no .safetensors file")
    if not path.is_file():
        raise MissingInput(f"model.lora {path}: no such file or folder")
    if path.suffix != ".safetensors":
        raise _unsafe(path)
    return path


def _unsafe(path: Path) -> UnsafeWeights:
    return UnsafeWeights(f"model.lora {path}: only safetensors are read (a pickle runs code)")


def apply_lora(pipe: Any, lora: Lora) -> None:
    """Merge `lora` into the weights of `pipe`; raises ModelError where it does not fit."""
    if not hasattr(pipe, "load_lora_weights"):
        raise ModelError(f"model.lora: {type(pipe).__name__} takes none")
    if find_spec("peft") is None:
        raise ModelError("model.lora: needs the package peft; pip install 'unmemorize[lora]'")
    before = {name: _checksum(module) for name, module in _networks(pipe).items()}
    try:
        pipe.load_lora_weights(
            str(lora.path.parent),
            weight_name=lora.path.name,
            adapter_name=_ADAPTER,
            local_files_only=True,
            use_safetensors=True,
        )
        pipe.fuse_lora(lora_scale=lora.scale)
        pipe.unload_lora_weights()
    except Exception as error:  # whatever a stranger's file sets off in there
        raise ModelError(f"{lora.path}: not a LoRA of this model ({first_line(error)})") from error
    changed = False
    for name, module in _networks(pipe).items():
        require_finite(module, f"{lora.path}: merged into {name}")
        changed = changed or _checksum(module) != before[name]
    if lora.scale and not changed:
        raise ModelError(f"{lora.path}: adapts no weight of this model")


def _networks(pipe: Any) -> dict[str, torch.nn.Module]:
    names = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
    found = {name: getattr(pipe, name, None) for name in names}
    return {name: module for name, module in found.items() if module is not None}


def _checksum(module: torch.nn.Module) -> float:
    """A number that a merged LoRA changes."""
    return sum(float(p.detach().double().square().sum()) for p in module.parameters())
