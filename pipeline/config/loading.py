"""A configuration out of YAML and `a.b=c`: checked whole, all mistakes reported at once."""

import copy
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.run import RunConfig
from pipeline.errors import ConfigError, MissingInput

_MAX_CONFIG_BYTES = 1 << 20
# PyYAML lets the errors of its constructors through: a 13th month, !!timestamp of a word, depth
_NOT_YAML = (yaml.YAMLError, ValueError, AttributeError, RecursionError)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `a.b=c` overrides; raise ConfigError listing every mistake."""
    return make_config(read_yaml(path), overrides, where=str(path))


def make_config(
    values: dict[str, Any], overrides: Sequence[str] = (), *, where: str = "configuration"
) -> RunConfig:
    """Validate a mapping with overrides applied."""
    values = copy.deepcopy(values)
    for override in overrides:
        _apply(values, override)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
        raise ConfigError("\n".join([f"{where}: {count}", *(f"  {line}" for line in lines)])) from (
            error
        )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from YAML: plain values only, no aliases, at most 1 MiB."""
    if not path.is_file():
        raise MissingInput(f"{path}: no such configuration; `unmemorize configs ls` shows ours")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_CONFIG_BYTES} bytes")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ConfigError(f"{path}: YAML aliases are not read")  # a few expand to gigabytes
        values = yaml.safe_load(text)
    except _NOT_YAML as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: a mapping of names to values is expected")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, _ = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {override}: write it as section.field=value")
    *parents, last = name.split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, not a section")
        node = child
    node[last] = override_value(override)


def override_value(override: str) -> Any:
    """The value of `a.b=value`; raise ConfigError where it is not YAML."""
    text = override.partition("=")[2]
    try:
        return yaml.safe_load(text)
    except _NOT_YAML as error:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value") from error


def _explain(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"{name}: unknown field{_suggest(item['loc'])}"
    message = item["msg"].removeprefix("Value error, ")
    found = item.get("input")
    shown = f" (found {found!r:.100})" if isinstance(found, str | int | float | bool) else ""
    return f"{name}: {message}{shown}"


def _suggest(location: tuple[str | int, ...]) -> str:
    section: Any = RunConfig
    for part in location[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = getattr(field, "annotation", None)
    known = list(getattr(section, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
