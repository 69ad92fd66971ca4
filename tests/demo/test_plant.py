"""The planted set's truth, recounted from the shards with tarfile and PIL alone."""

import hashlib
import io
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from shard_builder import members

from pipeline.demo.plant import planned_rows, plant, rewordings
from pipeline.errors import UsageError

SMOKE = {"copies": (1, 8, 32), "pictures_per_level": 2, "limit": 150}
PICTURES = Path(__file__).parents[2] / "pipeline" / "demo" / "assets" / "pictures"


def truth(out: Path) -> list[dict]:
    return pq.read_table(out / "planted.parquet").to_pylist()


def pixels(jpeg: bytes, side: int) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as file:
        picture = file.convert("RGB").resize((side, side), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float64) / 255


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("smoke")
    plant(out, **SMOKE)
    return out


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    out = tmp_path_factory.mktemp("full")
    plant(out)
    return out


def test_planned_rows_are_those_of_the_tables(full):
    tables = [pq.read_metadata(p) for p in (full / "shards").glob("*.parquet")]
    assert planned_rows((1, 2, 4, 8, 16, 32, 64), 12) == sum(t.num_rows for t in tables)


def test_every_row_with_a_picture_has_one_line_of_truth(full):
    rows = members(full / "shards")
    lines = truth(full)
    assert sorted(rows) == sorted(line["key"] for line in lines)
    assert len({line["uid"] for line in lines}) == len(lines)
    for line in lines:
        row = rows[line["key"]]
        sidecar = json.loads(row["json"])
        assert row["txt"].decode() == line["caption"] == sidecar["caption"]
        assert sidecar["uid"] == line["uid"]
        assert sidecar["sha256"] == hashlib.sha256(row["jpg"]).hexdigest()


def test_k_and_k_caption_are_what_the_shards_hold(full):
    rows, lines = members(full / "shards"), truth(full)
    pictures = {line["key"]: line["picture_id"] for line in lines}
    k = Counter(pictures[key] for key in rows)
    k_caption = Counter((pictures[key], row["txt"].decode()) for key, row in rows.items())
    for line in lines:
        assert line["k"] == k[line["picture_id"]]
        assert line["k_caption"] == k_caption[line["picture_id"], line["caption"]]


def test_planted_rows_look_like_their_picture_and_like_no_other(full):
    rows, lines = members(full / "shards"), truth(full)
    small = {line["key"]: pixels(rows[line["key"]]["jpg"], 32).ravel() for line in lines}
    by_picture = defaultdict(list)
    for line in lines:
        by_picture[line["picture_id"]].append(small[line["key"]])
    ids = sorted(by_picture)
    mean = np.stack([np.mean(by_picture[i], axis=0) for i in ids])
    planted = [line for line in lines if line["planted"]]
    x = np.stack([small[line["key"]] for line in planted])
    squared = (x**2).sum(1)[:, None] + (mean**2).sum(1) - 2 * x @ mean.T
    rms = np.sqrt(np.maximum(squared, 0) / x.shape[1])
    own = (np.arange(len(planted)), [ids.index(line["picture_id"]) for line in planted])
    distance = rms[own]
    rms[own] = np.inf
    assert distance.max() < 0.1
    assert (distance < 0.7 * rms.min(axis=1)).all()


@pytest.mark.parametrize("level", [1, 2, 4, 8, 16, 32, 64])
def test_levels_hold_twelve_pictures_half_of_them_reworded(full, level):
    captions = defaultdict(Counter)
    for line in truth(full):
        if line["planted"] and line["k"] == level:
            captions[line["picture_id"]][line["caption"]] += 1
    assert len(captions) == 12
    counts = [sorted(c.values(), reverse=True) for c in captions.values()]
    third = [level // 3 + (i < level % 3) for i in range(min(3, level))]
    assert counts.count([n for n in third if n]) >= 6
    assert counts.count([level]) >= 6


def test_natural_copies_are_counted(full):
    shipped = pq.read_table(PICTURES / "picture_ids.parquet").to_pylist()
    natural = Counter(line["picture_id"] for line in shipped)
    found = {line["picture_id"]: line["k"] for line in truth(full) if not line["planted"]}
    assert {i: n for i, n in natural.items() if n > 1}.items() <= found.items()
    assert all(n == natural[i] for i, n in found.items())


def test_copies_are_moved_by_at_most_one_pixel_at_32(full):
    """The offset of each copy from its original, by exhaustive search at 128 px."""
    rows, lines = members(full / "shards"), truth(full)
    originals = {json.loads(r["json"])["uid"]: r["jpg"] for r in members(PICTURES).values()}
    copies = defaultdict(list)
    for line in lines:
        if line["planted"] and line["k"] == 4:
            copies[line["picture_id"]].append((line["uid"], rows[line["key"]]["jpg"]))
    window = [(dy, dx) for dy in range(-6, 7) for dx in range(-6, 7)]
    for family in copies.values():
        (original,) = [originals[uid] for uid, _ in family if uid in originals]
        padded = np.pad(pixels(original, 128).mean(axis=2), 6, constant_values=1.0)
        for _, copy in family:
            moved = pixels(copy, 128).mean(axis=2)
            errors = [
                np.abs(moved - padded[6 - dy : 134 - dy, 6 - dx : 134 - dx]).mean()
                for dy, dx in window
            ]
            assert max(map(abs, window[int(np.argmin(errors))])) <= 4


def test_copies_differ_in_their_bytes(smoke):
    rows = members(smoke / "shards")
    for level in (8, 32):
        digests = {rows[line["key"]]["jpg"] for line in truth(smoke) if line["k"] == level}
        assert len(digests) >= 0.9 * 2 * level


def test_smoke_size(smoke):
    lines = truth(smoke)
    planted = Counter(line["k"] for line in lines if line["planted"])
    assert planted == {1: 2, 8: 16, 32: 64}
    assert len({line["picture_id"] for line in lines}) == 150


def test_same_seed_same_bytes_other_seed_other_pictures(smoke, tmp_path):
    plant(tmp_path / "again", **SMOKE)
    plant(tmp_path / "other", seed=1, **SMOKE)
    paths = sorted(p.relative_to(smoke) for p in smoke.rglob("*") if p.is_file())
    assert len(paths) >= 4
    for path in paths:
        assert (smoke / path).read_bytes() == (tmp_path / "again" / path).read_bytes()
    planted = [
        {line["picture_id"] for line in truth(out) if line["planted"]}
        for out in (smoke, tmp_path / "other")
    ]
    assert planted[0] != planted[1]


def test_tables_and_stats_follow_img2dataset(full):
    tables = sorted((full / "shards").glob("*.parquet"))
    listed = [row for path in tables for row in pq.read_table(path).to_pylist()]
    keys = [row["key"] for row in listed if row["status"] == "success"]
    assert sorted(keys) == sorted(members(full / "shards"))
    assert any(row["status"] == "failed_to_download" for row in listed)
    stats = [json.loads(p.read_text()) for p in sorted((full / "shards").glob("*_stats.json"))]
    assert sum(s["successes"] for s in stats) == len(keys)
    assert sum(s["count"] for s in stats) == len(listed)
    assert max(s["count"] for s in stats) == 500


def test_more_pictures_than_the_limit_is_an_error_with_a_mend(tmp_path):
    with pytest.raises(UsageError, match="raise it"):
        plant(tmp_path, copies=(1, 2), pictures_per_level=5, limit=9)
    with pytest.raises(UsageError, match="plant fewer"):
        plant(tmp_path, copies=(1, 2), pictures_per_level=1000)


def test_rewordings():
    assert rewordings("red apple, fruit, food") == (
        "red apple, fruit, food",
        "a picture of red apple, fruit, food",
        "food, fruit, red apple",
    )
    assert rewordings("my red house")[2] == "my red house, clip art"
