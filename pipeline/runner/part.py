"""The unit of work: a part of a stage, what it needs, and what it says it did.

A part reads declared inputs, writes its own outputs atomically and returns an outcome. It knows
nothing of the runner; the runner knows nothing of what it computes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig


@dataclass(frozen=True)
class Context:
    """Where a run lives and how it was configured."""

    run: Path
    config: RunConfig

    @property
    def train(self) -> Path:
        """The run folder that holds the training images, their index and groups."""
        return self.config.train or self.run

    @property
    def findings(self) -> Path:
        """The run folder that holds prompts, generations, verdicts and findings."""
        return self.config.findings or self.run

    def path(self, name: str) -> Path:
        """A path relative to the run folder; an absolute one stays as it is."""
        return self.run / name


@dataclass(frozen=True)
class Part:
    """One unit of work, retry and resume.

    `inputs` are files or folders, relative to the run folder where they are the run's own;
    `params` is JSON, and part of the fingerprint.
    """

    name: str
    inputs: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a part did: its outputs, and every row that came in either out or rejected."""

    outputs: tuple[str, ...]
    rows_in: int
    rows_out: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lost = self.rows_in - self.rows_out - sum(self.rejected.values())
        if lost:
            raise ValueError(
                f"{self.rows_in} rows in, {self.rows_out} out and "
                f"{sum(self.rejected.values())} rejected: {lost} unaccounted for"
            )


@dataclass(frozen=True)
class Stage:
    """A stage is its plan, its work, and what its results depend on.

    `version` changes with the meaning of the output. `settings` names the sections of the
    configuration that enter the fingerprint. Where `tolerant`, later stages go on without a part
    that failed. `on_device` parts need the accelerator where the configuration names one.
    """

    name: str
    version: int
    settings: tuple[str, ...]
    plan: Callable[[Context], list[Part]]
    run: Callable[[Part, Context], Outcome]
    tolerant: bool = False
    on_device: bool = False


def relative(path: Path, run: Path) -> str:
    """`path` as a part names it: relative to the run folder if inside it, else absolute."""
    resolved, root = path.resolve(), run.resolve()
    inside = resolved.is_relative_to(root)
    return resolved.relative_to(root).as_posix() if inside else resolved.as_posix()


def reject_counts(reasons: list[str]) -> dict[str, int]:
    """Count reasons, in sorted order."""
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}
