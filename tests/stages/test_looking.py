"""What an eraser sees when it looks: counts on drawings whose truth is known.

The model is a stand-in that draws a training picture, as it is, for the captions that remember.
"""

from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from shard_builder import ShardBuilder, jpeg, picture

from pipeline.config import make_config
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.part import Context
from pipeline.runner.progress import SilentProgress
from pipeline.stages.gallery import open_gallery
from pipeline.stages.looking import looks_at


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    root = tmp_path_factory.mktemp("looking")
    shard = ShardBuilder(root / "shards" / "00000.tar")
    for number in range(30):
        shard.add(f"p{number:02d}", jpeg(picture(number)), f"picture {number}")
    shard.write()
    config = make_config({"dataset": {"shards": [str(root / "shards")]}})
    run_job(Job(config, root / "train", DEDUP), SilentProgress())
    return root / "train"


class Recalling:
    """Draws the picture that a caption names if it is remembered, else noise; counts its calls."""

    def __init__(self, gallery, images, remembered):
        self._gallery, self._images, self.remembered = gallery, images, set(remembered)
        self.drawn = 0
        self.seeds = set()

    def draw(self, captions, seeds, how):
        self.drawn += len(captions)
        self.seeds |= set(seeds)
        return np.stack(
            [self._one(caption, seed) for caption, seed in zip(captions, seeds, strict=True)]
        )

    def _one(self, caption, seed):
        if caption in self.remembered:
            return self._gallery.square(self._images[caption]["image_id"])
        return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def look(train, remembered, kept=("picture 6", "picture 7")):
    config = {"train": str(train), "match": {"compare_px": 32}, "erase": {"stop": {"every": 5}}}
    context = Context(train.parent / "erase", make_config(config))
    gallery = open_gallery(context)
    rows = pq.read_table(train / "images/part-00000.parquet").to_pylist()
    images = {row["caption"]: row for row in rows}
    model = Recalling(gallery, images, remembered)

    def finding(caption, role="target"):
        group = gallery.group_of[images[caption]["image_id"]]
        return {"caption": caption, "group_id": group, "role": role}

    split = SimpleNamespace(
        trained=[finding(f"picture {i}") for i in range(4)],
        retained=[*map(finding, kept), finding("picture 9", "control")],
    )
    looks = looks_at(model, [], split, gallery, context)
    assert looks.every == 5
    return looks.look(5), model


def test_enough_drawings_without_a_hit_meet_the_bound(train):
    seen, model = look(train, remembered=["picture 6"])
    assert seen.met
    assert seen.left.hits == 0
    assert seen.left.n == 76  # 73 or more, in whole rounds of four captions
    assert (seen.kept.n, seen.kept.hits) == (2, 1)  # controls are not memorized
    assert model.drawn == len(model.seeds) == 78


def test_drawing_ends_once_the_bound_is_out_of_reach(train):
    seen, model = look(train, remembered=["picture 2"])
    assert not seen.met
    assert (seen.left.n, seen.left.hits) == (4, 1)
    assert model.drawn == 6


def test_another_training_picture_is_not_the_caption_s_own(train):
    seen, _ = look(train, remembered=[], kept=("picture 6",))
    assert seen.kept.hits == 0


def test_nothing_is_looked_at_without_the_setting(train):
    context = Context(train.parent / "erase", make_config({"train": str(train)}))
    assert looks_at(None, [], None, None, context) is None
