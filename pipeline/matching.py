"""Is a picture too close to the training set? For single files, without a model."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.calibration.audit_record import verdict_thresholds
from pipeline.detection.blank import is_blank
from pipeline.detection.verdict import judge_generation
from pipeline.errors import ImageRejected, MissingInput
from pipeline.ids import hash63
from pipeline.io.images import decode, read_picture_file, to_square
from pipeline.io.runfolder import DUPLICATES
from pipeline.io.runjson import read_run_config
from pipeline.runner.part import Context
from pipeline.stages.gallery import Gallery, open_gallery
from pipeline.stages.judging import gather
from pipeline.stages.scan import image_limits
from pipeline.terminal import printable


def match_pictures(paths: Sequence[Path], train: Path, *, as_json: bool) -> Iterator[str]:
    """One line a picture, in order: its verdict and nearest training picture, or why not."""
    if not (train / DUPLICATES).is_file():
        raise MissingInput(f"{train}: no {DUPLICATES}; give the --out of `dedup`")
    context = Context(train, read_run_config(train))
    gallery = open_gallery(context)
    for path in paths:
        row = _match(path, gallery, context)
        yield json.dumps(row, sort_keys=True) if as_json else _line(row)


def _match(path: Path, gallery: Gallery, context: Context) -> dict[str, Any]:
    name, limits = str(path), image_limits(context)
    if not path.is_file():
        return {"picture": name, "verdict": "rejected", "reason": "no such file"}
    try:
        picture = decode(read_picture_file(path, limits), limits)
    except ImageRejected as rejection:
        return {
            "picture": name,
            "verdict": "rejected",
            "reason": f"{rejection.reason}: {rejection}",
        }
    matches = gallery.measure([picture])[0]
    side = context.config.match.compare_px
    blank = bool(is_blank(to_square(picture, side)[None])[0])
    generation = {"generation_id": hash63(name), "status": "rejected" if blank else "ok"}
    evidence = gather(generation, matches, searched=True)
    judged = judge_generation(evidence, verdict_thresholds(context.config.verdict))
    nearest = next((m for m in matches if m["image_id"] == judged.image_id), None)
    nearest = nearest or next(iter(matches), None)
    row: dict[str, Any] = {"picture": name, "verdict": str(judged.verdict)}
    if nearest is not None:
        source = gallery.images.row(nearest["image_id"])
        row |= {"shard": source["shard"], "key": source["key"], "caption": source["caption"]}
        fields = ("image_id", "similarity", "l2", "tiled_l2", "nearest_ratio")
        row |= {field: nearest[field] for field in fields}
    return row


def _line(row: dict[str, Any]) -> str:
    if "image_id" not in row:
        return f"{row['picture']}: {row['verdict']} ({row.get('reason', 'nothing to compare')})"
    ratio = row["nearest_ratio"]
    shown = "-" if ratio is None else f"{ratio:.2f}"
    caption = printable(row["caption"])[:60]
    return (
        f"{row['picture']}: {row['verdict']}; nearest {row['shard']}/{row['key']} "
        f"(tiled l2 {row['tiled_l2']:.3f}, {shown} of the next picture's) {caption!r}"
    )
