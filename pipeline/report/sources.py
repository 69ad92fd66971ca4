"""Where the tables of a report lie: in the run itself, or in the runs that it was made from."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.errors import ShardCorrupt
from pipeline.io.digest import canonical_sha256, sha256_file
from pipeline.report.facts import Source
from pipeline.runner.part import Context

RUN = "run.json"
_OWN = (
    RUN,
    "planted.parquet",
    "redraws/part-*.parquet",
    "redraws/*.tar",
    "verification.parquet",
    "verification.json",
    "scored.parquet",
    "score.json",
)
_TRAIN = (
    "images/part-*.parquet",
    "images/rekeyed.parquet",
    "embeddings/*/rejected/*.parquet",
    "pairs/*/part-*.parquet",
    "duplicates.parquet",
    "groups.parquet",
    "caption_groups.parquet",
    "export/captions.parquet",
    "recall/*.json",
)
_FINDINGS = (
    "collected/*.parquet",
    "prompts.parquet",
    "screen.parquet",
    "probes.parquet",
    "clusters.parquet",
    "generations/*.parquet",
    "generations/*.tar",
    "verdicts.parquet",
    "findings.parquet",
    "extracted.parquet",
    "images_asked.parquet",
)
_ERASED = ("erasure.json", "*/erasure.json")


@dataclass(frozen=True)
class Sources:
    """Finds tables by their name in the contract, and says where they were found."""

    context: Context

    def find(self, pattern: str) -> list[Path]:
        """Files of a pattern, sorted; none where the stage that writes them did not run."""
        return sorted(path for path in self._folder(pattern).glob(pattern) if path.is_file())

    def one(self, name: str) -> Path | None:
        """The file of that name, if it is there."""
        return next(iter(self.find(name)), None)

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file's values; empty where it is not there."""
        path = self.one(name)
        return read_json(path) if path else {}

    def label(self, pattern: str) -> str:
        """A pattern as the report names it: with its run, where that is another one."""
        folder = self._folder(pattern)
        if folder == self.context.run:
            return pattern
        role = "train" if pattern in _TRAIN else "findings" if pattern in _FINDINGS else "erased"
        own = folder == self.context.run / "erased"
        return f"erased/{pattern}" if own else f"{role}:{pattern}"

    def labels(self, *patterns: str) -> tuple[str, ...]:
        """Labels of those patterns that have files."""
        return tuple(self.label(pattern) for pattern in patterns if self.find(pattern))

    def files(self) -> list[Path]:
        """Every file that a report may read, tables and drawings."""
        return [path for pattern in _all_patterns() for path in self.find(pattern)]

    def digests(self) -> tuple[Source, ...]:
        """For each pattern with files their number, rows and digest."""
        found = []
        for pattern in _all_patterns():
            paths = self.find(pattern)
            if paths and pattern != RUN:  # how many workers a run had is no fact of the report
                found.append(Source(self.label(pattern), len(paths), _rows(paths), _sha256(paths)))
        return tuple(found)

    def _folder(self, pattern: str) -> Path:
        context = self.context
        if pattern in _TRAIN:
            return context.train
        if pattern in _FINDINGS:
            return context.findings
        if pattern in _ERASED:
            return context.config.erased or context.run / "erased"
        return context.run


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises ShardCorrupt where the file is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ShardCorrupt(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ShardCorrupt(f"{path}: a JSON object is expected")
    return values


def count_rows(paths: Iterable[Path]) -> int:
    """Rows of Parquet files, by their footers."""
    return sum(int(pq.read_metadata(path).num_rows) for path in paths)


def _all_patterns() -> tuple[str, ...]:
    return (*_OWN, *_TRAIN, *_FINDINGS, *_ERASED)


def _rows(paths: list[Path]) -> int | None:
    return count_rows(paths) if paths[0].suffix == ".parquet" else None


def _sha256(paths: list[Path]) -> str:
    digests = [sha256_file(path) for path in paths]
    return digests[0] if len(digests) == 1 else canonical_sha256(digests)
