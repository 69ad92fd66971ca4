"""adopt: an earlier run's manifest, vectors, pairs and groups, for a run that adds shards to it.

Files are linked, or copied where that cannot be: none is ever changed in place. With them the run
folder is whole, and every later stage finds all pictures in it; scan and embed look at the new
shards alone, and the join leaves out what the earlier run has compared. That holds only if both
runs mean the same by a pair, so what differs is refused by name.
"""

import json
import os
import shutil
from pathlib import Path

from pipeline.config import GIVEN, RunConfig, joined_encoders
from pipeline.encoders import build_encoder
from pipeline.errors import InputError, MissingInput
from pipeline.increment import first_number, previous
from pipeline.io import schemas
from pipeline.io.atomic import atomic_path, write_bytes
from pipeline.io.manifest import read_images
from pipeline.io.runfolder import (
    ADOPTED,
    DUPLICATES,
    OLD_DUPLICATES,
    REKEYED,
    VERIFIED,
    hubs_file,
    image_part,
    list_embedding_parts,
    list_image_parts,
    old_hubs_file,
    pair_part,
)
from pipeline.io.tables import read_table
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.runner.receipt import read_receipts
from pipeline.stages.pairs import joined_thresholds

_REST = "rest"
_SETTINGS = ("pdq_min_quality", "pdq_variants", "max_pixel_l2")


def plan(context: Context) -> list[Part]:
    """One part a shard of the earlier run, and one for what is of no shard."""
    before = previous(context)
    if before is None:
        return []
    if not (before.run / DUPLICATES).is_file():
        raise MissingInput(f"{before.run}: no {DUPLICATES}; give the --out of `dedup`")
    _require_same(context, before)
    encoders = context.config.embed.encoders
    files: dict[str, list[str]] = {n: [image_part(n)] for n in list_image_parts(before.run)}
    for name in encoders:
        for part in list_embedding_parts(before.run, name):
            own = [part.vectors, part.metadata, part.rejected]
            files[part.name] += [path for path in own if (before.run / path).is_file()]
    rest = {DUPLICATES: OLD_DUPLICATES}
    for name in (*joined_encoders(context.config), VERIFIED):
        if (before.run / hubs_file(name)).is_file():
            rest[hubs_file(name)] = old_hubs_file(name)
        for number, path in enumerate(sorted(before.run.glob(pair_part(name, "*")))):
            old = path.relative_to(before.run).as_posix()
            rest[old] = pair_part(name, f"before-{number:05d}")
    first = first_number(context)
    parts = [_part(name, {p: p for p in own}, before.run, context) for name, own in files.items()]
    return [*parts, _part(_REST, rest, before.run, context, first)]


def run(part: Part, context: Context) -> Outcome:
    """Link the files of one part."""
    for source, output in zip(part.inputs, part.params["outputs"], strict=True):
        _link(context.path(source), context.path(output))
    outputs = [*part.params["outputs"]]
    rows = 0
    if part.name == _REST:
        values = {"first_own_part": part.params["first"]}
        write_bytes(context.path(ADOPTED), json.dumps(values).encode())
        outputs.append(ADOPTED)
    else:
        table = read_images(context.run, [part.name], columns=["image_id"], accepted_only=False)
        rows = table.num_rows
    return Outcome(tuple(outputs), rows, rows)


def _part(
    name: str, outputs: dict[str, str], run: Path, context: Context, first: int | None = None
) -> Part:
    inputs = tuple(relative(run / source, context.run) for source in outputs)
    return Part(name, inputs, {"outputs": list(outputs.values()), "first": first})


def _link(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, temporary)


def _require_same(context: Context, before: Context) -> None:
    """Raise InputError where the earlier run means something else by a vector or a pair."""
    ours, theirs = context.config, before.config
    if ours.dataset.embeddings != theirs.dataset.embeddings:
        raise InputError(f"{before.run}: made from {_kind(theirs)}; {_kind(ours)} cannot be added")
    weights = _weights(before)
    for name, spec in ours.embed.encoders.items():
        same = theirs.embed.encoders.get(name) == spec
        if same and spec.kind != GIVEN and name in weights:
            same = build_encoder(spec, ours.model.device).fingerprint == weights[name]
        if not same:
            raise InputError(
                f"{before.run}: embedded without {name} or with other weights or settings of it; "
                "use the same, or deduplicate all shards anew"
            )
    old, new = joined_thresholds(before), joined_thresholds(context)
    for name in _SETTINGS:
        old[name], new[name] = getattr(theirs.pairs, name), getattr(ours.pairs, name)
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            raise InputError(
                f"{before.run}: its pairs are of {name} {old.get(name)}, not {new.get(name)}; use "
                "the same, or deduplicate all shards anew"
            )
    if (before.run / REKEYED).is_file() and len(read_table(before.run / REKEYED, schemas.REKEYED)):
        raise InputError(f"{before.run}: has ids that collided; deduplicate all shards anew")


def _kind(config: RunConfig) -> str:
    return "vectors" if config.dataset.embeddings else "shards"


def _weights(context: Context | None) -> dict[str, str]:
    """The fingerprints that the encoders of a run had when it embedded."""
    while context is not None:
        for receipt in read_receipts(context.run, "embed"):
            found: dict[str, str] = receipt.fields.get("params", {}).get("weights", {})
            return found
        context = previous(context)
    return {}


STAGE = Stage("adopt", 1, (), plan, run)
