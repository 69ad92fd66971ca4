"""The configurations that come with the package."""

import shutil
from pathlib import Path

from pipeline.errors import MissingInput, OutputExists

_HERE = Path(__file__).parent
_FOLDERS = (_HERE / "shipped_configs", _HERE.parent / "configs")


def config_names() -> list[tuple[str, str]]:
    """Names and purposes; the purpose is the first comment line of the file."""
    return [
        (path.stem, path.read_text().splitlines()[0].lstrip("# ")) for path in _shipped().values()
    ]


def config_path(name: str) -> Path:
    """The file of a shipped configuration."""
    found = _shipped().get(name.removesuffix(".yaml"))
    if found is None:
        raise MissingInput(f"{name}: not shipped; there are {', '.join(_shipped())}")
    return found


def copy_config(name: str, target: Path) -> Path:
    """Copy a shipped configuration to a file or folder; never over an existing file."""
    source = config_path(name)
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise OutputExists(f"{target}: already there")
    return Path(shutil.copyfile(source, target))


def _shipped() -> dict[str, Path]:
    folder = next((f for f in _FOLDERS if f.is_dir() and any(f.glob("*.yaml"))), _FOLDERS[-1])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
