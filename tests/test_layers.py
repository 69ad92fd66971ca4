"""Imports go one way: what computes knows nothing of what runs it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNS = {"cli", "jobs", "registry", "stages", "runner", "report", "demo"}
FORBIDDEN = {
    "indexes": {"pipeline"},
    "pipeline/detection": {"runner", "stages", "io", "generation", "erasure", "config", "encoders"},
    "pipeline/config": {*RUNS, "io", "generation", "encoders", "detection"},
    "pipeline/geometry": {*RUNS, "io", "generation", "erasure"},
    "pipeline/io": {*RUNS, "generation", "encoders", "erasure", "detection"},
    "pipeline/encoders": {*RUNS, "generation", "erasure", "detection"},
    "pipeline/generation": {*RUNS, "erasure", "detection", "encoders", "config"},
    "pipeline/mitigation": {*RUNS, "erasure", "encoders", "config"},
    "pipeline/erasure": {*RUNS, "encoders", "config"},
    "pipeline/runner": {"cli", "jobs", "registry", "stages", "report", "demo", "generation"},
    "pipeline/report": {"cli", "jobs", "registry", "stages", "generation", "erasure", "encoders"},
    "pipeline/stages": {"cli", "jobs", "registry"},
}
MUTUAL = {("calibration", "stages")}
"""Its records are read by stages, and its commands run some: no module of it does both."""
DASK = {"pipeline/runner/cluster.py"}


def imported(path: Path) -> set[str]:
    """Modules that a file imports, dotted, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_go_one_way(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    for path in paths:
        ours = [name.split(".") for name in imported(path) if name.split(".")[0] == "pipeline"]
        heads = {part for names in ours for part in names[:2]}
        assert not heads & FORBIDDEN[folder], path


def test_no_two_folders_import_each_other():
    """Nor two modules of the package that lie beside the folders."""
    imports: dict[str, set[str]] = {}
    for path in (ROOT / "pipeline").rglob("*.py"):
        names = (name.split(".") for name in imported(path))
        seen = {name[1] for name in names if name[0] == "pipeline" and len(name) > 1}
        first = path.relative_to(ROOT / "pipeline").parts[0].removesuffix(".py")
        imports.setdefault(first, set()).update(seen - {first})
    mutual = {(a, b) for a in imports for b in imports[a] if a in imports.get(b, ()) and a < b}
    assert mutual == MUTUAL


def test_only_one_module_knows_dask():
    knowing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pipeline").rglob("*.py")
        if {name.split(".")[0] for name in imported(path)} & {"dask", "distributed"}
    }
    assert knowing == DASK
