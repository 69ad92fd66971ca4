"""Captions to audit, as users have them: a list, or the captions of shards.

Every row is a caption or has a reason: `empty`, `not_text` (a number, an object, bytes that are no
text), `too_long`, `not_json`, or `repeated_caption`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError, MissingInput
from pipeline.ids import normalize_caption
from pipeline.io.given_pictures import MAX_SIDECAR, read_told
from pipeline.io.lists import LINE, ListRow, find_column, is_text, read_list
from pipeline.io.shards import Shard, find_shards, group_members, read_member
from pipeline.io.tables import read_foreign
from pipeline.io.tarscan import scan_tar

_NAMES = ("caption", "prompt", "text")
_SHOWN = 200
REPEATED = "repeated_caption"
"""What most lists have, and nothing is lost by."""


@dataclass(frozen=True)
class RejectedPrompt:
    """A row of a list, counted from 1, that is no caption; `detail`: its beginning."""

    row: int
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class PromptList:
    """Distinct captions in the order of the list, in NFC, and the rows that are none."""

    captions: tuple[str, ...]
    rejected: tuple[RejectedPrompt, ...]

    @property
    def rows(self) -> int:
        """How many rows the list has."""
        return len(self.captions) + len(self.rejected)


def read_prompts(path: Path, *, max_chars: int = 4096) -> PromptList:
    """The captions of a list: those of the column caption, prompt or text, in any case.

    Where the rows have no columns each is a caption. `path` may name shards, too: a tar, a folder
    of tars, or a pattern of tars. Raises MissingInput where there is nothing, InputError where no
    row is a caption.
    """
    if is_shards(path):
        shards = find_shards([str(path)])
        found = _sort_out((caption for s in shards for caption in _shard_captions(s)), max_chars)
    else:
        if not path.is_file():
            raise MissingInput(f"{path}: no such prompt file")
        rows = read_list(path, _NAMES)
        if path.suffix.lower() not in (".csv", ".tsv", ".parquet"):
            rows = _without_last_line(rows)
        column = find_column(path, rows, _NAMES)
        found = _sort_out((_caption(row, column) for row in rows), max_chars)
    if not found.captions:
        raise InputError(f"{path}: no captions in it")
    return found


def is_shards(path: Path) -> bool:
    """Whether an address of prompts names shards."""
    return path.suffix.lower() == ".tar" or path.is_dir()


def _without_last_line(rows: list[ListRow]) -> list[ListRow]:
    """A text ends with a newline, after which there is no row."""
    return rows[:-1] if rows and rows[-1].values.get(LINE) == "" else rows


def _caption(row: ListRow, column: str) -> tuple[str, str]:
    """A caption, or the empty string with the reason."""
    if row.reason:
        return "", row.reason
    value = row.values.get(column, row.values.get(LINE))
    if value is None:
        return "", "empty"
    return (value, "") if isinstance(value, str) else ("", "not_text")


def _sort_out(captions: Iterable[tuple[str, str]], max_chars: int) -> PromptList:
    found: dict[str, None] = {}
    rejected = []
    for number, (text, known) in enumerate(captions, 1):
        reason = known or _why_not(text, max_chars)
        caption = "" if reason else normalize_caption(text)
        if reason or caption in found:
            shown = text[:_SHOWN].replace("\0", "\N{REPLACEMENT CHARACTER}")
            detail = shown.encode("utf-8", "backslashreplace").decode()
            rejected.append(RejectedPrompt(number, reason or REPEATED, detail))
        else:
            found[caption] = None
    return PromptList(tuple(found), tuple(rejected))


def _why_not(text: str, max_chars: int) -> str:
    if not is_text(text):
        return "not_text"
    if not text.strip():
        return "empty"
    return "too_long" if len(text.strip()) > max_chars else ""


def _shard_captions(shard: Shard) -> Iterator[tuple[str, str]]:
    """One caption a sample, of the Parquet where it has them, else of the txt or json member."""
    told = _metadata_captions(shard)
    samples, _ = group_members(scan_tar(shard.path).require_sound(shard.path).members)
    with shard.path.open("rb") as handle:
        for key, sample in sorted(samples.items()):
            caption = told.get(key) or ""
            if not caption:
                beside = {
                    kind: read_member(handle, member.offset, member.size)
                    for kind, member in sample.members.items()
                    if kind in ("txt", "json") and member.size <= MAX_SIDECAR
                }
                caption = read_told(beside).caption
            yield caption, ""


def _metadata_captions(shard: Shard) -> dict[str, str]:
    if not shard.metadata.is_file():
        return {}
    rows = read_foreign(shard.metadata, columns=["key", "caption"]).to_pylist()
    return {
        str(row.get("key")): row["caption"] for row in rows if isinstance(row.get("caption"), str)
    }
