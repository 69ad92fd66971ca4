"""What an install that is not editable has: every package is listed in pyproject.toml."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for top in ("pipeline", "indexes")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert found <= set(listed)
    assert len(set(listed)) == len(listed)
