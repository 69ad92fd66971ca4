"""The training set: what was rejected, and which pictures are duplicates of which.

The manifest and the groups are read column by column: they may have as many rows as the training
set has pictures.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.io import schemas
from pipeline.io.runfolder import ACCEPTED, current_groups
from pipeline.io.tables import read_rows, read_table
from pipeline.report.bins import bin_label, bin_labels
from pipeline.report.facts import (
    Duplicates,
    Group,
    Images,
    JoinRecall,
    Member,
    Rate,
    Rejection,
)
from pipeline.report.sources import Sources, count_rows, read_json

_MANIFEST = "images/part-*.parquet"
_NOT_EMBEDDED = "embeddings/*/rejected/*.parquet"
_GROUPS = "duplicates.parquet"
_FACTS = "groups.parquet"
_PAIRS = "pairs/*/part-*.parquet"
_RECALL = "recall/*.json"
_EXAMPLES = 3
_MEMBERS_SHOWN = 12


def images(sources: Sources) -> Images | None:
    """The manifest's counts; None where nothing was scanned."""
    parts = sources.find(_MANIFEST)
    if not parts:
        return None
    rows, accepted = 0, 0
    tally = _Tally(redacted=sources.context.config.report.redact)
    for path in parts:
        table = read_table(
            path, schemas.IMAGES, columns=["shard", "key", "status", "reason", "detail"]
        )
        good = pc.equal(table["status"], ACCEPTED)
        rows, accepted = rows + table.num_rows, accepted + int(pc.sum(good).as_py() or 0)
        tally.add("scan", table.filter(pc.invert(good)))
    for path in sources.find(_NOT_EMBEDDED):
        tally.add(f"embed {path.parts[-3]}", read_table(path, schemas.REJECTED))
    labels = sources.labels(_MANIFEST, _NOT_EMBEDDED)
    return Images(labels, rows, accepted, tally.rejections())


def duplicates(sources: Sources) -> Duplicates | None:
    """The groups' counts, and the largest groups; None where nothing was grouped."""
    path = sources.one(_GROUPS)
    if path is None:
        return None
    facts_path = sources.one(_FACTS)
    columns = ["n_kept", "placeholder"]
    facts = read_rows(facts_path, schemas.GROUPS, columns=columns) if facts_path else []
    table = _with_current_groups(path, ["group_size", "keep", "reason"])
    grouped = table.filter(pc.greater(table["group_size"], 1))
    sizes = _size_of_groups(grouped)
    dropped = table.filter(pc.invert(table["keep"]))
    counts = Counter(bin_label(size) for size in sizes.tolist())
    return Duplicates(
        sources=sources.labels(_GROUPS, _FACTS, _PAIRS, _RECALL),
        images=table.num_rows,
        groups=len(sizes),
        images_in_groups=grouped.num_rows,
        kept=table.num_rows - dropped.num_rows,
        dropped=dropped.num_rows,
        largest=int(sizes.max(initial=0)),
        dropped_by_reason=_value_counts(dropped["reason"]),
        pairs_by_encoder=_pairs(sources),
        recalls=tuple(_recall(read_json(file)) for file in sources.find(_RECALL)),
        chained=sum(row["n_kept"] > 1 for row in facts),
        placeholders=sum(row["placeholder"] for row in facts),
        sizes=tuple((label, counts[label]) for label in bin_labels(counts)),
        shown=_largest(sources, sources.context.config.report.max_groups),
    )


def _with_current_groups(path: Path, columns: list[str]) -> pa.Table:
    """The columns, and `group_id` as it is now where a later run joined groups."""
    names = ["group_id", "merged_into", *columns]
    table = read_table(path, schemas.DUPLICATES, columns=names)
    return table.set_column(0, "group_id", pa.array(current_groups(table)))


class _Tally:
    """Counts rejected rows by stage and reason and keeps the first few of each."""

    def __init__(self, *, redacted: bool) -> None:
        self._redacted = redacted
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def add(self, stage: str, table: pa.Table) -> None:
        for reason, count in _value_counts(table["reason"]).items():
            self._counts[stage, reason] += count
            kept = self._examples.setdefault((stage, reason), [])
            wanted = 0 if self._redacted else _EXAMPLES - len(kept)
            rows = table.filter(pc.equal(table["reason"], reason)).slice(0, wanted)
            kept += [(_where(row), row["detail"]) for row in rows.to_pylist()]

    def rejections(self) -> tuple[Rejection, ...]:
        return tuple(
            Rejection(stage, reason, count, tuple(self._examples[stage, reason]))
            for (stage, reason), count in sorted(
                self._counts.items(), key=lambda item: (item[0][0] != "scan", -item[1], item[0])
            )
        )


def _where(row: dict[str, Any]) -> str:
    return f"{row['shard']}/{row['key']}" if "shard" in row else str(row["key"])


def _size_of_groups(grouped: pa.Table) -> npt.NDArray[np.int64]:
    _, first = np.unique(grouped["group_id"].to_numpy(), return_index=True)
    return grouped["group_size"].to_numpy().astype(np.int64)[first]


def _value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    counted = {row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()}
    return dict(sorted(counted.items()))


def _pairs(sources: Sources) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for path in sources.find(_PAIRS):
        counts[path.parent.name] += count_rows([path])
    return dict(sorted(counts.items()))


def _recall(values: dict[str, Any]) -> JoinRecall:
    found = Rate.of(values["pairs_found"], values["pairs_true"])
    return JoinRecall(values["encoder"], values["join"], values["pictures_sampled"], found)


def _largest(sources: Sources, wanted: int) -> tuple[Group, ...]:
    path = sources.one(_GROUPS)
    if path is None:
        return ()
    columns = ["image_id", "group_size", "keep", "reason", "similarity_to_representative"]
    table = _with_current_groups(path, columns)
    grouped = table.filter(pc.greater(table["group_size"], 1))
    ids, first = np.unique(grouped["group_id"].to_numpy(), return_index=True)
    sizes = grouped["group_size"].to_numpy()[first]
    chosen = ids[np.lexsort((ids, -sizes))][:wanted]
    rows = grouped.filter(pc.is_in(grouped["group_id"], pa.array(chosen))).to_pylist()
    members: dict[int, list[Member]] = {int(group): [] for group in chosen}
    for row in rows:
        members[row["group_id"]].append(
            Member(row["image_id"], row["keep"], row["reason"], row["similarity_to_representative"])
        )
    return tuple(_group(group, found) for group, found in members.items())


def _group(group_id: int, members: list[Member]) -> Group:
    """The kept pictures first, then those that differ most from the one that stands for them."""
    ranked = sorted(members, key=lambda m: (not m.keep, m.similarity, m.image_id))
    kept = sum(member.keep for member in members)
    return Group(group_id, len(members), kept, tuple(ranked[:_MEMBERS_SHOWN]))
