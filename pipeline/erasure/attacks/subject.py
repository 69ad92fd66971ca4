"""What an attack is given, and what it gives back."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.ids import hash63

Pictures = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Subject:
    """A picture (s, s, 3) at the model's resolution, and captions it was, or might be, trained on.

    `others` are captions that have nothing to do with it, for attacks that start from one.
    Raises InputError without a caption or where the picture is not square and in colour.
    """

    picture: Pictures
    captions: tuple[str, ...]
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.picture.shape
        if len(shape) != 3 or shape[2] != 3 or shape[0] != shape[1]:
            raise InputError(f"attack: a picture of shape {shape}, not (s, s, 3)")
        if not self.captions:
            raise InputError("attack: the picture has no caption; give at least one")

    @cached_property
    def sha256(self) -> str:
        """Hash of the pixels."""
        return hashlib.sha256(np.ascontiguousarray(self.picture).tobytes()).hexdigest()

    def caption(self, attempt: int) -> str:
        """The caption of an attempt; they take turns."""
        return self.captions[attempt % len(self.captions)]

    def other(self, attempt: int) -> str:
        """The caption of another picture for an attempt; the empty one where there is none."""
        return self.others[attempt % len(self.others)] if self.others else ""


@dataclass(frozen=True, eq=False)
class Attempts:
    """The drawings of every attempt, (attempts, draws, h, w, 3).

    `box` (top, left, bottom, right) in shares of the sides is what the attack drew; the rest was
    given to it. `forwards` counts passes of one picture through the UNet, backward ones as one.
    """

    pictures: Pictures
    forwards: int
    box: Box = field(default=WHOLE)


def seed_of(seed: int, subject: Subject, *what: object) -> int:
    """A seed that depends on the picture, its captions and `what` alone."""
    return hash63("attack", seed, subject.sha256, *subject.captions, *what)
