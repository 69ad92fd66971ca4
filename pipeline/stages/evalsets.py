"""Evaluation sets: where their vectors lie, and whether these can be compared with a run's."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.config import PIXELS, joined_encoders
from pipeline.errors import InputError, MissingInput
from pipeline.io.manifest import read_images
from pipeline.io.remote import is_remote
from pipeline.io.runfolder import DUPLICATES, eval_run
from pipeline.io.runjson import NAME, read_run_config
from pipeline.io.shards import local_places, unique_names
from pipeline.runner.part import Context


@dataclass(frozen=True)
class EvalSet:
    """One evaluation set: its unique name, and the run folder that holds its vectors."""

    name: str
    address: str
    run: Path
    finished: bool


def eval_sets(context: Context) -> list[EvalSet]:
    """The configured evaluation sets; those that are not runs are to be made so at their `run`."""
    addresses = context.config.against
    places = [_folder(address) for address in addresses]
    names = unique_names([p.name for p in places], [f"{p.parent.name}-{p.name}" for p in places])
    sets = []
    for number, (name, address) in enumerate(zip(names, addresses, strict=True)):
        finished = (Path(address) / NAME).is_file()
        run = Path(address).resolve() if finished else eval_run(context.run, number)
        sets.append(EvalSet(name, address, run, finished))
    return sets


def require_comparable(eval_set: EvalSet, context: Context) -> None:
    """Raise where a set was embedded otherwise, or where it holds nothing to compare with."""
    if eval_set.finished:
        if not (eval_set.run / DUPLICATES).is_file():
            raise MissingInput(f"{eval_set.address}: no {DUPLICATES}; give the --out of `dedup`")
        theirs, ours = read_run_config(eval_set.run), context.config
        for name in compared_encoders(context):
            if theirs.embed.encoders.get(name) != ours.embed.encoders[name]:
                raise InputError(
                    f"{eval_set.address}: embedded without {name} or with other settings of it; "
                    "give its shards instead of its run"
                )
    if not read_images(eval_set.run, columns=["image_id"]).num_rows:
        raise InputError(f"{eval_set.address}: not one picture in it could be read to compare with")


def compared_encoders(context: Context) -> list[str]:
    """Encoders whose vectors are compared across sets: the joined ones, and what confirms them."""
    confirming = [] if context.config.pairs.max_pixel_l2 is None else [PIXELS]
    return [*dict.fromkeys([*joined_encoders(context.config), *confirming])]


def _folder(address: str) -> Path:
    """The folder that an address names or lies in: what a person calls the set."""
    if is_remote(address):
        place = Path(address.partition("://")[2])
        return place.parent if place.suffix == ".tar" else place
    place = local_places(address)[0].resolve()
    return place if place.is_dir() else place.parent
