"""How long the chains of each group are, where they are weakest, and which is a placeholder."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

import indexes
from indexes import Pairs
from pipeline.io import schemas
from pipeline.io.tables import table_from_columns

Ids = npt.NDArray[np.int64]


def group_facts(
    members: pa.Table, labels: Ids, chosen: pa.Table, pairs: Pairs, placeholder_size: int
) -> pa.Table:
    """The rows of groups.parquet, by id; `labels` (n,) are the groups of the members.

    The diameter counts links; it is 1 where one kept picture stands for all others.
    """
    ids = members["image_id"].to_numpy()
    group, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    kept = np.bincount(place, chosen["keep"].to_numpy(zero_copy_only=False)).astype(np.int32)
    captions = pc.dictionary_encode(members["caption"].combine_chunks()).indices.to_numpy()
    captions_of = _distinct_by_group(place, captions, len(group))
    weakest = np.zeros(len(group))
    weakest[place] = indexes.weakest_links(ids, pairs)
    columns = {
        "group_id": group,
        "group_size": sizes.astype(np.int32),
        "n_kept": kept,
        "n_captions": captions_of,
        "weakest_link": weakest,
        "diameter": _diameters(place[np.searchsorted(ids, pairs.id_a)], pairs, kept),
        "placeholder": (sizes >= placeholder_size) & (2 * captions_of >= sizes),
        "n_subgroups": _distinct_by_group(place, chosen["subgroup_id"].to_numpy(), len(group)),
    }
    return table_from_columns(columns, schemas.GROUPS)


def _distinct_by_group(place: Ids, values: npt.NDArray[Any], groups: int) -> npt.NDArray[np.int32]:
    """How many different values each group has; `place` (n,) is each row's group."""
    _, number = np.unique(values, return_inverse=True)
    seen = np.unique(place * len(values) + number) // max(len(values), 1)
    return np.bincount(seen, minlength=groups).astype(np.int32)


@dataclass(frozen=True)
class _Slices:
    """Rows of each of n groups."""

    order: Ids
    ends: Ids

    def of(self, group: int) -> Ids:
        return self.order[self.ends[group] : self.ends[group + 1]]


def _diameters(place: Ids, pairs: Pairs, kept: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Of the groups that keep one picture 1, of the others by search; `place` is the pairs'."""
    ends = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=len(kept)))])
    links = _Slices(np.argsort(place, kind="stable"), ends)
    found = np.ones(len(kept), np.int32)
    for group in np.flatnonzero(kept > 1).tolist():
        rows = links.of(group)
        one = Pairs(pairs.id_a[rows], pairs.id_b[rows], pairs.similarity[rows])
        found[group] = indexes.diameter(one)
    return found
