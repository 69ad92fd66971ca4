"""run.json: how a run was configured, and what it was made with and from."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.config import RunConfig, make_config
from pipeline.errors import MissingInput, OutputExists, ShardCorrupt
from pipeline.io.atomic import write_bytes
from pipeline.io.digest import canonical_sha256

NAME = "run.json"
_LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pyarrow", "pillow", "timm")
_FAISS = ("faiss-gpu", "faiss-cpu")


def write_run(run: Path, config: RunConfig) -> None:
    """Write the resolved configuration; raise OutputExists where the folder is not a run's."""
    for place in (run, *run.parents):
        if place.exists() and not place.is_dir():
            raise OutputExists(f"{place}: a file, not a folder; give another --out")
    if run.is_dir() and any(run.iterdir()) and not _is_ours(run / NAME):
        raise OutputExists(f"{run}: not empty and not a run of ours; give another --out")
    values = {
        "config": config.model_dump(mode="json"),
        "versions": _versions(),
        "upstream": {
            name: {"path": str(path), "fingerprint": run_fingerprint(path)}
            for name, path in (
                ("train", config.train),
                ("findings", config.findings),
                ("onto", config.onto),
            )
            if path is not None
        },
        "recall": _recalls(run),
    }
    write_bytes(run / NAME, json.dumps(values, indent=1, sort_keys=True).encode())


def read_run_config(run: Path) -> RunConfig:
    """The configuration that a run folder was made with."""
    return make_config(_read(run)["config"], where=str(run / NAME))


def read_versions(run: Path) -> dict[str, str]:
    """The versions that a run folder was made with; none where it has no run.json."""
    return dict(_read(run).get("versions", {})) if (run / NAME).is_file() else {}


def run_fingerprint(run: Path) -> str:
    """SHA-256 of a run's configuration and of the fingerprints of all its receipts."""
    receipts = {
        path.relative_to(run).as_posix(): _object(path).get("fingerprint")
        for path in sorted(run.glob("receipts/*/*.json"))
    }
    return canonical_sha256([_read(run)["config"], receipts])


def _is_ours(path: Path) -> bool:
    """Whether a file is a run.json that we wrote: other tools have files of that name, too."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"config", "versions"} <= values.keys()


def _read(run: Path) -> dict[str, Any]:
    path = run / NAME
    if not path.is_file():
        raise MissingInput(f"{run}: no {NAME}; not the folder of a run")
    values = _object(path)
    if not isinstance(values.get("config"), dict):
        raise ShardCorrupt(f"{path}: no config in it")
    return values


def _object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ShardCorrupt(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ShardCorrupt(f"{path}: not a JSON object")
    return values


def _recalls(run: Path) -> dict[str, Any]:
    """What the joins of this run were measured to find, by encoder."""
    return {path.stem: _object(path) for path in sorted(run.glob("recall/*.json"))}


def _versions() -> dict[str, str]:
    found = {"unmemorize": __version__, "python": platform.python_version()}
    for name in (*_LIBRARIES, *_FAISS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
