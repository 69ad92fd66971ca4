"""Exact copies beside a search by hand, and pictures of the manifest that cannot be had."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import MissingInput
from pipeline.io import schemas
from pipeline.io.images import ImageLimits
from pipeline.io.manifest import DIGESTS, TrainingImages, exact_keys
from pipeline.io.runfolder import image_part
from pipeline.io.tables import write_rows

NAMES = st.sampled_from([None, "a", "b", "c"])


def by_search(rows):
    """The class of each row as the smallest row that a chain of shared digests leads to."""
    classes = list(range(len(rows)))
    for _ in rows:
        for i, j in combinations(range(len(rows)), 2):
            if any(a is not None and a == b for a, b in zip(rows[i], rows[j], strict=True)):
                classes[i] = classes[j] = min(classes[i], classes[j])
    return classes


@given(st.lists(st.tuples(NAMES, st.none(), NAMES), max_size=9))
def test_copies_share_a_digest_or_a_chain_of_them(rows):
    columns = {
        name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(DIGESTS)
    }
    keys, classes = exact_keys(pa.table(columns)), by_search(rows)
    assert len(keys) == len(rows)
    for i, j in combinations(range(len(rows)), 2):
        assert (keys[i] == keys[j]) == (classes[i] == classes[j])


def test_pixels_decide_where_all_were_looked_at():
    columns = {"sha256": ["a", "b", "c"], "pixel_sha256": ["p", "p", "q"]}
    columns["vector_sha256"] = ["v", "w", "v"]
    keys = exact_keys(pa.table(columns))
    assert keys[0] == keys[1] != keys[2]


def test_a_picture_that_cannot_be_had_is_named(tmp_path):
    row = dict.fromkeys(schemas.IMAGES.names) | {"image_id": 7, "shard": "00000", "key": "k"}
    row |= {
        "dataset": "train",
        "caption": "",
        "status": "ok",
        "reason": "",
        "detail": "",
        "offset": 0,
        "size": 1,
    }
    write_rows(tmp_path / image_part("00000"), [row], schemas.IMAGES)
    images = TrainingImages(tmp_path, {}, ImageLimits())
    assert images.row(7)["key"] == "k"
    with pytest.raises(MissingInput, match="shard 00000"):
        images.data(7)
    for unknown in (6, 8, np.int64(0)):
        with pytest.raises(MissingInput, match="not in the manifest"):
            images.row(unknown)
