"""What is audited, with which captions, against which training set: the settings of `audit`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import MissingInput, UsageError
from pipeline.io.runfolder import DUPLICATES

WITHOUT_TRAIN = "without --train nothing is matched; captions are screened and cliques searched"


@dataclass(frozen=True)
class Asked:
    """What the command was given."""

    model: str | None = None
    generations: str | None = None
    train: Path | None = None
    prompts: Path | None = None
    images: Path | None = None


def audit_settings(asked: Asked) -> dict[str, Any]:
    """The sections of the configuration that `audit` fills.

    Raises UsageError for a command that does not fit together, MissingInput where `train` is no run
    of `dedup`.
    """
    if (asked.model is None) == (asked.generations is None):
        raise UsageError(
            "audit needs --model, a diffusers folder or hub id, or --generations, pictures that "
            "another generator made" + ("; give one of them" if asked.model else "")
        )
    if asked.generations is not None and asked.prompts is not None:
        raise UsageError(
            "--generations bring their captions in txt and json members; leave --prompts out"
        )
    if asked.images is not None and asked.prompts is not None:
        raise UsageError("--images takes the captions of those images; leave --prompts out")
    if asked.images is not None and asked.train is None:
        raise UsageError("--images needs --train RUN: training images are looked up there")
    if asked.model is not None and asked.train is None and asked.prompts is None:
        raise UsageError("audit needs --train RUN, whose groups give the captions, or --prompts")
    if asked.train is not None and not (asked.train / DUPLICATES).is_file():
        raise MissingInput(f"{asked.train}: no {DUPLICATES}; give the --out of `dedup`")
    return {
        "train": _absolute(asked.train),
        "model": {"path": asked.model},
        "prompts": {"file": _absolute(asked.prompts), "images": _absolute(asked.images)},
        "generate": {"folder": _absolute(asked.generations)},
    }


def _absolute(path: str | Path | None) -> str | None:
    return None if path is None else str(Path(path).resolve())
