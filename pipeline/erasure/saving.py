"""An erased model on disk: a diffusers folder that any tool loads, which says what it is.

    model_index.json, unet/, vae/, ...   the whole pipeline, safetensors only
    delta.safetensors                    the changed tensors alone, under the UNet's own names
    erasure.json                         what was erased from what, how; hashes of the targets only

The same facts stand in the header of the UNet's and the delta's files, so that a file that is
copied out of the folder still says which base it belongs to. Equal models give equal bytes: the
safetensors library writes metadata in random order, so the header is written here.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch

from pipeline.erasure.looks import front
from pipeline.erasure.targets import Target
from pipeline.erasure.trainer import Report, Settings
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.saving import save_pipeline

_KEY = "unmemorize"


def describe(
    targets: Sequence[Target], settings: Settings, report: Report, *, base_sha256: str
) -> dict[str, Any]:
    """Return the facts for `save`: the base, the targets' hashes, the method and its settings."""
    best_of = front(report.looks)
    return {
        "base_sha256": base_sha256,
        "method": settings.method,
        "settings": settings.facts(),
        "iterations": report.iterations,
        "diverged": report.diverged,
        "looks": [asdict(look) | {"on_front": look in best_of} for look in report.looks],
        "targets": [
            {
                "group_id": target.group_id,
                "captions": len(target.captions),
                "pictures": len(target.pictures),
                "anchors": len(target.anchors),
                "neighbours": len(target.neighbours),
                "sha256": target.sha256,
            }
            for target in targets
        ],
        "trained_parameters": report.n_trained_parameters,
        "trained_tensors": list(report.trained),
    }


def save(model: DiffusionModel, out: Path, erasure: Mapping[str, Any]) -> None:
    """Write the model and its `erasure` facts (see `describe`) into the folder `out`."""
    facts = json.dumps(erasure, sort_keys=True, allow_nan=False)
    save_pipeline(model.pipe, out)
    weights = model.unet.state_dict()
    delta = {name: weights[name].contiguous() for name in erasure["trained_tensors"]}
    safetensors.torch.save_file(delta, out / "delta.safetensors")
    for path in (*sorted((out / "unet").glob("*.safetensors")), out / "delta.safetensors"):
        stamp(path, {"format": "pt", _KEY: facts})
    text = json.dumps(erasure, sort_keys=True, indent=2, allow_nan=False)
    (out / "erasure.json").write_text(text + "\n", encoding="utf-8")


def stamp(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the metadata of a safetensors file, tensors untouched.

    The file is 8 bytes of little-endian header length, a JSON header, and the tensors' bytes.
    """
    rewritten = path.with_suffix(".stamped")
    with path.open("rb") as source, rewritten.open("wb") as sink:
        header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
        header.pop("__metadata__", None)
        header = {"__metadata__": dict(sorted(metadata.items())), **dict(sorted(header.items()))}
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)  # the tensors stay aligned
        sink.write(len(encoded).to_bytes(8, "little") + encoded)
        shutil.copyfileobj(source, sink)
    rewritten.replace(path)
