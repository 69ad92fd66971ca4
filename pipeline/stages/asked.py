"""asked: a rights-holder's list of images in, the duplicate groups that hold them out.

An image is named by uid, id, url, key (`KEY` or `SHARD/KEY`) or a picture file. A file is looked
for by its bytes, and then by what it shows: the nearest training picture counts if it is the same
by the rules of the verdict, or a near-duplicate by the threshold that the training set was
deduplicated with. What is not found is said not to be in the training set; an id that is none of
the set's is rejected.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.calibration.audit_record import verdict_thresholds
from pipeline.detection.blank import is_blank
from pipeline.detection.verdict import Verdict, judge_generation
from pipeline.encoders import metric_of
from pipeline.errors import ImageRejected, MissingInput
from pipeline.ids import hash63
from pipeline.io import schemas
from pipeline.io.asked_files import Asked, read_asked
from pipeline.io.digest import sha256_file
from pipeline.io.images import decode, fits, read_picture_file, to_square
from pipeline.io.manifest import read_images
from pipeline.io.runfolder import ACCEPTED, ASKED, DUPLICATES, current_groups
from pipeline.io.runjson import read_run_config
from pipeline.io.tables import read_table, write_rows
from pipeline.runner.part import Context, Outcome, Part, Stage, reject_counts, relative
from pipeline.stages.gallery import open_gallery
from pipeline.stages.judging import gather
from pipeline.stages.scan import image_limits

Row = dict[str, Any]
_COLUMNS = ("image_id", "uid", "url", "shard", "key", "member", "sha256")
_IDS = ("uid", "image_id", "url", "key")


def plan(context: Context) -> list[Part]:
    """One part; picture files that the list names are inputs like the list.

    Those that are too large are none: they are refused by their size, whatever is in them.
    """
    path, limits = _list_of(context), image_limits(context)
    asked = read_asked(path)
    files = {str(row.row): str(file) for row in asked if (file := _file(row, path)) is not None}
    inputs = [
        path,
        context.train / DUPLICATES,
        *(file for file in map(Path, sorted(set(files.values()))) if fits(file, limits)),
    ]
    names = tuple(relative(item, context.run) for item in inputs)
    return [Part("all", names, {"files": files})]


def run(part: Part, context: Context) -> Outcome:
    """Look for each row."""
    asked = read_asked(_list_of(context))
    files = {int(row): Path(file) for row, file in part.params["files"].items()}
    small = {file for file in files.values() if fits(file, image_limits(context))}
    known = _Known(context, [row.text for row in asked], {sha256_file(file) for file in small})
    rows: list[Row] = []
    for row in asked:
        try:
            if row.reason:
                raise ImageRejected(row.reason)
            found = known.by_name(row) or _by_picture(row, files.get(row.row), known, context)
            rows += [_row(row) | item for item in found]
        except ImageRejected as rejection:
            detail = str(rejection) if str(rejection) != rejection.reason else ""
            said = {"status": "rejected", "reason": rejection.reason, "detail": detail[:500]}
            rows.append(_row(row) | said)
    write_rows(context.path(ASKED), rows, schemas.ASKED)
    rejected = reject_counts([row["reason"] for row in rows if row["status"] != ACCEPTED])
    return Outcome((ASKED,), len(asked), len(asked) - sum(rejected.values()), rejected)


def asked_groups(context: Context) -> set[int]:
    """The groups that hold what was asked about."""
    table = read_table(context.path(ASKED), schemas.ASKED, columns=["group_id"])
    return set(table["group_id"].drop_null().to_pylist())


class _Known:
    """The rows of the training set that asked texts, or files of these digests, may mean."""

    def __init__(self, context: Context, texts: Sequence[str], digests: set[str]) -> None:
        images = read_images(context.train, columns=_COLUMNS)
        groups = read_table(context.train / DUPLICATES, schemas.DUPLICATES)
        ids = groups["image_id"].to_pylist()
        self.group_of: dict[int, int] = dict(zip(ids, current_groups(groups).tolist(), strict=True))
        images = images.filter(pc.is_in(images["image_id"], pa.array(ids, pa.int64())))
        place = pc.binary_join_element_wise(images["shard"], images["key"], "/")
        member = pc.binary_join_element_wise(images["shard"], images["member"], "/")
        wanted = pa.array(sorted(set(texts)), pa.string())
        self._ids = images["image_id"]
        self._by = {
            "uid": self._places(images["uid"], wanted),
            "url": self._places(images["url"], wanted),
            "key": self._places(place, wanted) | self._places(images["key"], wanted),
            "path": self._places(member, wanted),
            "image_id": self._places(pc.cast(images["image_id"], pa.string()), wanted),
        }
        self._by_bytes = self._places(images["sha256"], pa.array(sorted(digests), pa.string()))

    def by_name(self, asked: Asked) -> list[Row]:
        """One row a group whose image has that name; none where no image has."""
        for kind in (asked.kind,) if asked.kind else (*_IDS, "path"):
            if found := self._by[kind].get(asked.text):
                return self._rows(found, kind)
        return []

    def by_bytes(self, data: bytes) -> list[Row]:
        """One row a group that holds these very bytes."""
        return self._rows(self._by_bytes.get(hashlib.sha256(data).hexdigest(), []), "bytes")

    def _rows(self, images: list[int], how: str) -> list[Row]:
        first: dict[int, int] = {}
        for image in sorted(images):
            first.setdefault(self.group_of[image], image)
        return [
            {"found": True, "how": how, "image_id": image, "group_id": group}
            for group, image in sorted(first.items())
        ]

    def _places(self, column: Any, wanted: pa.Array) -> dict[str, list[int]]:
        chosen = pc.is_in(column, wanted)
        found: dict[str, list[int]] = {}
        texts, ids = pc.filter(column, chosen).to_pylist(), pc.filter(self._ids, chosen).to_pylist()
        for text, image in zip(texts, ids, strict=True):
            found.setdefault(text, []).append(image)
        return found


def _by_picture(asked: Asked, file: Path | None, known: _Known, context: Context) -> list[Row]:
    if asked.kind in _IDS:
        raise ImageRejected(f"unknown_{asked.kind}", "no accepted training image has it")
    if file is None:
        if asked.kind == "path":
            raise ImageRejected("no_such_file")
        raise ImageRejected("unknown", "no uid, id, url or key of the set, and no picture file")
    data = read_picture_file(file, image_limits(context))
    return known.by_bytes(data) or [_by_looks(data, context)]


def _by_looks(data: bytes, context: Context) -> Row:
    picture = decode(data, image_limits(context))
    side = context.config.match.compare_px
    if bool(is_blank(to_square(picture, side)[None])[0]):
        raise ImageRejected("blank", "a picture without anything on it is like every other")
    gallery = open_gallery(context)
    matches = gallery.measure([picture])[0]
    generation = {"generation_id": hash63(hashlib.sha256(data).hexdigest()), "status": ACCEPTED}
    evidence = gather(generation, matches, searched=True)
    judged = judge_generation(evidence, verdict_thresholds(context.config.verdict))
    by_id = {match["image_id"]: match for match in matches}
    nearest = matches[0] if matches else None
    if judged.verdict is Verdict.VERBATIM and judged.image_id is not None:
        return _looks_like(by_id[judged.image_id], "pixels")
    alike = max(matches, key=lambda m: (m["similarity"] or -1, -m["image_id"]), default=None)
    least = _least_similarity(context)
    if alike is not None and least is not None and (alike["similarity"] or -1) >= least:
        return _looks_like(alike, "descriptor")
    row: Row = {"found": False, "detail": "not in the training set"}
    if nearest is not None:
        row |= {"asked_l2": nearest["l2"], "asked_tiled_l2": nearest["tiled_l2"]}
    return row


def _looks_like(match: Row, how: str) -> Row:
    row = {"found": True, "how": how, "image_id": match["image_id"], "group_id": match["group_id"]}
    return row | {"asked_l2": match["l2"], "asked_tiled_l2": match["tiled_l2"]}


def _least_similarity(context: Context) -> float | None:
    """The threshold of the training set's own near-duplicates, of the encoder that matches."""
    config = read_run_config(context.train)
    for name in context.config.match.encoders:
        if metric_of(config.embed.encoders[name]) == "cosine":
            return config.pairs.min_similarity.get(name)
    return None


def _row(asked: Asked) -> Row:
    row: Row = {"row": asked.row, "asked": asked.text, "kind": asked.kind, "found": False}
    return row | {"status": ACCEPTED, "reason": "", "detail": ""}


def _list_of(context: Context) -> Path:
    path = context.config.prompts.images
    if path is None or not (context.train / DUPLICATES).is_file():
        raise MissingInput("prompts.images: needs a list, and train, the run of its training set")
    return path


def _file(asked: Asked, listed_in: Path) -> Path | None:
    """The picture file that a row names, beside the list or in the working folder."""
    if asked.reason or asked.kind in _IDS or "\n" in asked.text:
        return None
    for place in (listed_in.parent / asked.text, Path(asked.text).absolute()):
        try:
            if place.is_file():
                return place.resolve()
        except OSError:  # a name too long for a file
            return None
    return None


STAGE = Stage("asked", 1, ("prompts", "match", "verdict", "embed", "scan", "train"), plan, run)
