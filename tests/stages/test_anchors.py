"""Which captions are anchors, and that drawings which copy are not."""

import numpy as np
import pytest
import torch

from pipeline.config import make_config
from pipeline.runner.part import Context
from pipeline.stages.anchors import draw_anchors, nearest_captions

POOL = ("near", "far", "between")
STATES = {"own": (1.0, 0.0), "near": (0.9, 0.1), "between": (0.3, 0.8), "far": (-1.0, 0.2)}


class Model:
    """Text states by a table; a drawing is noise of its seed, and of the caption "far" blank."""

    def embed_text(self, captions):
        return torch.tensor([STATES[caption] for caption in captions])[:, None].repeat(1, 3, 1)

    def draw(self, captions, seeds, how):
        del how
        noise = [np.random.default_rng(s).integers(0, 256, (16, 16, 3), np.uint8) for s in seeds]
        plain = np.full((16, 16, 3), 9, np.uint8)
        return np.stack([plain if c == "far" else n for c, n in zip(captions, noise, strict=True)])


class Gallery:
    """Says of the drawings numbered in `copies` that they are pixel copies of image 1."""

    def __init__(self, *copies):
        self.copies = copies

    def measure(self, pictures):
        row = {"image_id": 1, "group_id": 1, "similarity": None, "blank": False}
        row |= dict.fromkeys(("nearest_ratio", "l2_ratio", "l2_ratio_50nn"), 0.1)
        row |= dict.fromkeys(("masked_l2", "masked_ratio"))
        return [
            [row | dict.fromkeys(("tiled_l2", "l2"), 0.0 if i in self.copies else 0.9)]
            for i in range(len(pictures))
        ]


def test_the_nearest_captions_come_first_and_the_targets_own_never():
    assert nearest_captions(Model(), ["own"], [*POOL, "own"], 2) == ["near", "between"]
    assert nearest_captions(Model(), ["far"], POOL, 5)[-1] == "near"
    assert nearest_captions(Model(), ["own"], [], 2) == []


@pytest.mark.parametrize(
    ("copies", "captions"),
    [
        ((), ("near", "near", "between", "between")),  # blank drawings of "far" are left out
        ((0, 3), ("near", "between")),
        ((0, 1, 2, 3), ()),
    ],
)
def test_copies_and_blank_drawings_are_no_anchors(tmp_path, copies, captions):
    context = Context(tmp_path, make_config({}))
    pictures, shown = draw_anchors(Model(), ["own"], POOL, Gallery(*copies), context)
    assert shown == captions
    assert len(pictures) == len(captions)
