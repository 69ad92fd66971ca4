"""What is to be erased: a memorized picture, or a caption alone."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError

Pictures = npt.NDArray[np.uint8]


def no_pictures() -> Pictures:
    """Pictures of a target that is known by its captions alone."""
    return np.zeros((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Target:
    """One memorized group, as the eraser sees it.

    `captions` are those trained on: keep some of the group's captions back for the audit.
    `pictures` are the training pictures (n, s, s, 3) at the model's resolution; `esd` needs none.
    `neighbours` are the training pictures nearest to them that are no duplicates of them.
    `anchors` are what may be drawn in their place, pictures that nothing was trained on, and
    `anchor_captions` what each of them shows.
    """

    group_id: int
    captions: tuple[str, ...]
    pictures: Pictures
    neighbours: Pictures = field(default_factory=no_pictures)
    anchors: Pictures = field(default_factory=no_pictures)
    anchor_captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.captions:
            raise InputError(f"target {self.group_id}: no caption to train on; give at least one")
        for what in ("pictures", "neighbours", "anchors"):
            shape = getattr(self, what).shape
            if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
                raise InputError(
                    f"target {self.group_id}: {what} of shape {shape}, not (n, s, s, 3)"
                )
        if len(self.anchors) != len(self.anchor_captions):
            n, m = len(self.anchors), len(self.anchor_captions)
            raise InputError(f"target {self.group_id}: {n} anchors with {m} captions")

    @property
    def sha256(self) -> str:
        """Hash of captions and pictures: names what was erased without showing it."""
        digest = hashlib.sha256()
        for caption in self.captions:
            digest.update(caption.encode("utf-8", "surrogatepass") + b"\0")
        digest.update(repr(self.pictures.shape).encode())
        digest.update(np.ascontiguousarray(self.pictures).tobytes())
        return digest.hexdigest()
