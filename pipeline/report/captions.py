"""Which pictures were seen with other captions, too: the duplicate groups with the most of them."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.io import schemas
from pipeline.io.runfolder import ACCEPTED, ALTERNATIVES, CAPTION_GROUPS, DUPLICATES
from pipeline.io.tables import read_table
from pipeline.report.facts import CaptionGroup, Captions
from pipeline.report.sources import Sources, count_rows
from pipeline.report.text import short_hash

_MANIFEST = "images/part-*.parquet"
_SHOWN = 10
_EXAMPLES = 4


def captions(sources: Sources) -> Captions | None:
    """The groups' captions; None where they were not counted."""
    path = sources.one(CAPTION_GROUPS)
    if path is None:
        return None
    table = read_table(path, schemas.CAPTION_GROUPS)
    several = table.filter(pc.greater(table["n_captions"], 1))
    encoded = several["caption_diversity"].null_count < several.num_rows
    order = [("caption_diversity", "descending")] if encoded else []
    ranked = several.sort_by([*order, ("n_captions", "descending"), ("group_id", "ascending")])
    shown = ranked.slice(0, _SHOWN)
    examples = _examples(sources, shown["group_id"])
    return Captions(
        sources=sources.labels(CAPTION_GROUPS, ALTERNATIVES),
        groups=table.num_rows,
        several=several.num_rows,
        kept_alternatives=count_rows(sources.find(ALTERNATIVES)),
        encoded=encoded,
        shown=tuple(
            CaptionGroup(
                row["group_id"],
                row["group_size"],
                row["n_captions"],
                row["caption_diversity"],
                tuple(examples.get(row["group_id"], ())),
            )
            for row in shown.to_pylist()
        ),
    )


def _examples(sources: Sources, groups: pa.ChunkedArray) -> dict[int, list[str]]:
    """A few distinct captions of each group, those of the smallest ids."""
    path = sources.one(DUPLICATES)
    if path is None or not len(groups):
        return {}
    rows = read_table(path, schemas.DUPLICATES, columns=["image_id", "group_id"])
    rows = rows.filter(pc.is_in(rows["group_id"], groups.combine_chunks()))
    captions: dict[int, str] = {}
    for part in sources.find(_MANIFEST):
        table = read_table(part, schemas.IMAGES, columns=["image_id", "caption", "status"])
        chosen = pc.and_(
            pc.equal(table["status"], ACCEPTED),
            pc.is_in(table["image_id"], rows["image_id"].combine_chunks()),
        )
        captions |= {row["image_id"]: row["caption"] for row in table.filter(chosen).to_pylist()}
    found: dict[int, list[str]] = {}
    redact = sources.context.config.report.redact
    for row in rows.sort_by("image_id").to_pylist():
        own = found.setdefault(row["group_id"], [])
        caption = captions.get(row["image_id"], "")
        shown = short_hash(caption) if redact else caption
        if caption and shown not in own and len(own) < _EXAMPLES:
            own.append(shown)
    return found
