"""What is said of a group: how long its chain is, where it is weakest, whether it says anything."""

import pyarrow as pa
import pytest

from pipeline.io import schemas
from pipeline.io.tables import table_from_rows
from pipeline.stages.groups import group, group_facts


def _images(captions: list[str], pixels: list[str] | None = None) -> pa.Table:
    rows = [
        {
            "image_id": i,
            "dataset": "train",
            "shard": "00000",
            "key": f"{i:03d}",
            "caption": caption,
            "width": 8,
            "height": 8,
            "size": 10,
            "sha256": f"{i}",
            "pixel_sha256": pixels[i] if pixels else f"{i}",
            "status": "ok",
            "reason": "",
            "detail": "",
        }
        for i, caption in enumerate(captions)
    ]
    return table_from_rows(rows, schemas.IMAGES)


def _pairs(edges: list[tuple[int, int, float]]) -> pa.Table:
    rows = [{"id_a": a, "id_b": b, "similarity": s, "reason": "descriptor"} for a, b, s in edges]
    return table_from_rows(rows, schemas.PAIRS)


def _facts(images: pa.Table, pairs: pa.Table, placeholder_size: int = 1000):
    return group_facts(images, group(images, pairs, "first"), pairs, placeholder_size)


def test_a_chain_is_shown_with_its_weakest_link():
    chain = _pairs([(0, 1, 0.95), (1, 2, 0.91), (2, 3, 0.97), (5, 6, 0.99)])
    facts = _facts(_images(["a", "b", "c", "c", "d", "e", "e"]), chain)
    assert [row["group_id"] for row in facts] == [0, 5]  # 4 is alone
    assert (facts[0]["group_size"], facts[0]["n_captions"], facts[0]["diameter"]) == (4, 3, 3)
    assert facts[0]["weakest_link"] == pytest.approx(0.91)
    assert facts[0]["n_kept"] == 2  # 0 stands for 1, 2 for 3: the chain is split
    assert (facts[1]["n_kept"], facts[1]["diameter"]) == (1, 1)


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ([f"another {i}" for i in range(6)], True),
        (["one"] * 6, False),  # one caption: a picture that was duplicated
        ([f"another {i}" for i in range(5)], False),  # too few
    ],
)
def test_many_copies_with_many_captions_are_a_placeholder(captions, expected):
    images = _images(captions, ["same"] * len(captions))
    star = _pairs([(0, i, 1.0) for i in range(1, len(captions))])
    (facts,) = _facts(images, star, placeholder_size=6)
    assert facts["placeholder"] is expected


def test_a_pair_that_two_encoders_found_counts_once():
    images = _images(["a", "b"])
    (facts,) = _facts(images, _pairs([(0, 1, 0.9), (0, 1, 0.98)]))
    assert facts["weakest_link"] == pytest.approx(0.98)
