"""The state of a training on disk, so that a killed one goes on where it was.

One safetensors file, written whole or not at all: the tensors, and in its header what else there
is to know, as JSON. It holds as much as four or five copies of the trained tensors in float32. It
is used only by a training of the same base, targets, settings, library, device and threads: only
there do the remaining iterations give the bytes that an undisturbed training gives.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.erasure.settings import Settings
from pipeline.erasure.targets import Pictures, Target
from pipeline.generation.backend import DiffusionModel
from pipeline.io.atomic import atomic_path
from pipeline.io.digest import canonical_sha256

_VERSION = 1
_FINGERPRINT, _FACTS = "fingerprint", "facts"


@dataclass(frozen=True)
class State:
    """Tensors by name, and facts as JSON."""

    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Saves:
    """Where a state is kept, every how many iterations.

    `belongs_to` is a hash of what the trainer cannot see: the base's files, and what looks are
    judged by.
    """

    path: Path
    belongs_to: str
    every: int

    def due(self, iteration: int) -> bool:
        """Whether to write after `iteration`."""
        return iteration % self.every == 0

    def write(self, fingerprint: str, state: State) -> None:
        """Take the place of the last state; raises DiskFull where there is no room."""
        tensors = {name: tensor.detach().contiguous() for name, tensor in state.tensors.items()}
        facts = json.dumps(state.facts, sort_keys=True, allow_nan=False)
        with atomic_path(self.path) as temporary:
            save_file(tensors, temporary, metadata={_FINGERPRINT: fingerprint, _FACTS: facts})

    def read(self, fingerprint: str) -> State | None:
        """The last state; None without one, for another fingerprint, or where it is damaged."""
        try:
            with safe_open(self.path, "pt") as opened:
                header = opened.metadata() or {}
                if header.get(_FINGERPRINT) != fingerprint:
                    return None
                facts = json.loads(header[_FACTS])
                return State({name: opened.get_tensor(name) for name in opened.keys()}, facts)  # noqa: SIM118  no mapping
        except (OSError, SafetensorError, ValueError, KeyError):
            return None


def training_fingerprint(
    model: DiffusionModel,
    trained: Mapping[str, torch.Tensor],
    targets: Sequence[Target],
    retain_captions: Sequence[str],
    settings: Settings,
    belongs_to: str,
) -> str:
    """Hash of all that the bytes of a training depend on."""
    return canonical_sha256(
        {
            "version": _VERSION,
            "belongs_to": belongs_to,
            "settings": settings.facts(),
            "targets": [_whole_sha256(target) for target in targets],
            "retained": list(retain_captions),
            "trained": {name: list(tensor.shape) for name, tensor in trained.items()},
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": _device(model.device),
        }
    )


def _whole_sha256(target: Target) -> list[str]:
    """Of captions and pictures, and of what may take their place."""
    near = [_sha256(pictures) for pictures in (target.neighbours, target.anchors)]
    return [target.sha256, *near, *target.anchor_captions]


def _sha256(pictures: Pictures) -> str:
    shaped = repr(pictures.shape).encode() + np.ascontiguousarray(pictures).tobytes()
    return hashlib.sha256(shaped).hexdigest()


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
