"""What an encoder is: pictures in, one vector each out, and a fingerprint of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.errors import MissingInput, ModelError, UnsafeWeights, first_line
from pipeline.io.digest import sha256_file
from pipeline.weights import require_finite

Metric = Literal["cosine", "l2", "hamming"]


@dataclass(frozen=True)
class Encoded:
    """`vectors` (n, d): float32 of unit norm (cosine), float32 (l2), or uint8 bits (hamming).

    `quality` (n,) is the encoder's own trust in each row, in its own unit, where it has one.
    `trimmed` is the same of the pictures without their borders, where an encoder looks for these;
    of a picture that has none it is that of the whole.
    """

    vectors: npt.NDArray[Any]
    quality: npt.NDArray[np.float32] | None = None
    trimmed: "Encoded | None" = None


class Encoder(Protocol):
    """Built once a process; `encode` takes one picture or more, each independent of the others."""

    metric: Metric
    fingerprint: str
    least_side: int
    """Pixels of the shorter side that a picture may be reduced to before it comes here."""

    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode upright RGB pictures of any size."""


def unit_rows(vectors: torch.Tensor) -> npt.NDArray[np.float32]:
    """Rows scaled to unit norm in fp32; a row of zeros stays zero, and is rejected later."""
    scaled = torch.nn.functional.normalize(vectors.detach().float(), dim=-1, eps=1e-12)
    return scaled.cpu().numpy().astype(np.float32)


def load_weights(path: Path, sha256: str | None) -> dict[str, torch.Tensor]:
    """Read a state dict: safetensors, or a weights-only pickle whose SHA-256 the user gave.

    Raises UnsafeWeights for a pickle without its digest, and for any file with another one.
    """
    safe = path.suffix == ".safetensors"
    if not safe or sha256 is not None:
        require_sha256(path, sha256)
    if safe:
        return _load_safetensors(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnsafeWeights(f"{path}: not a plain state dict; convert it to safetensors") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise UnsafeWeights(f"{path}: a state dict is expected")
    return loaded


def load_into(
    module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path, *, exact: bool
) -> None:
    """Load every parameter of `module`; tensors that it has no place for are no error if not exact.

    Raises ModelError for weights of another architecture, NonFiniteWeights for NaN or infinity.
    """
    try:
        missing, _ = module.load_state_dict(state, strict=exact)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: not weights of this architecture ({reason})") from error
    if missing:
        raise ModelError(f"{path}: no tensor {missing[0]}; not weights of this architecture")
    require_finite(module, str(path))


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise MissingInput(f"{path}: no such weights file") from error
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged; fetch it again ({first_line(error)})") from error


def require_sha256(path: Path, sha256: str | None) -> None:
    """Raise UnsafeWeights unless the file has exactly the digest that the user gave."""
    if not path.is_file():
        raise MissingInput(f"{path}: no such weights file")
    found = sha256_file(path)
    if sha256 is None:
        raise UnsafeWeights(f"{path}: a pickle needs its sha256 in the config (it is {found})")
    if found != sha256:
        raise UnsafeWeights(f"{path}: sha256 is {found}, not the {sha256} of the config")
