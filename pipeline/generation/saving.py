"""A pipeline on disk, the same wherever its parts came from."""

import json
from pathlib import Path
from typing import Any


def save_pipeline(pipe: Any, out: Path) -> None:
    """Write a pipeline of diffusers into the folder `out`, safetensors only.

    Diffusers notes in each configuration the path that a part was loaded from. That names a folder
    of this machine, and would make a model's digest depend on it.
    """
    pipe.save_pretrained(str(out), safe_serialization=True)
    for path in sorted(out.rglob("*.json")):
        _forget_origin(path)


def _forget_origin(config: Path) -> None:
    value = json.loads(config.read_text(encoding="utf-8"))
    if isinstance(value, dict) and value.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
