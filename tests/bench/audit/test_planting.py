"""What is planted is what the truth says."""

from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.demo.shards import decode, encode_jpeg, read_shards, thumbnail
from tests.bench.audit import scenes, truth
from tests.bench.audit.planting import PLANTED, Plan, plant, shrunk
from tests.bench.audit.sources import Picture

COPIES = (1, 6)


def some_pictures(count=60):
    rng = np.random.default_rng(3)
    captions = dict.fromkeys(scenes.caption(rng) for _ in range(3 * count))
    return [
        Picture(f"{i:04d}", text, encode_jpeg(scenes.draw(text, rng), 90))
        for i, text in enumerate(list(captions)[:count])
    ]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    plant(some_pictures(), folder, Plan(seed=1, per_level=1, copies=COPIES))
    return folder


def rows_of(folder):
    return pq.read_table(folder / "planted.parquet", schema=PLANTED).to_pylist()


def test_each_regime_has_its_copies_and_captions(planted):
    rows = rows_of(planted)
    of = {}
    for row in rows:
        of.setdefault(row["picture_id"], []).append(row)
    for regime in ("verbatim", "diverse", "template"):
        groups = [group for group in of.values() if group[0]["regime"] == regime]
        assert sorted(len(group) for group in groups) == sorted(COPIES)
        largest = max(groups, key=len)
        captions = Counter(row["caption"] for row in largest)
        assert sorted(captions.values()) == ([2, 2, 2] if regime == "diverse" else [6])
        assert all(row["k_caption"] == captions[row["caption"]] for row in largest)
    assert all(len(g) == 1 for g in of.values() if g[0]["regime"] in ("single", "sibling"))


def test_copies_of_a_template_differ_inside_of_the_mask_alone(planted):
    rows, contents = rows_of(planted), read_shards(planted / "shards")
    group = [row for row in rows if row["regime"] == "template" and row["k"] > 1]
    with np.load(planted / "masks.npz") as masks:
        inside = shrunk(masks[group[0]["mask_id"]], 32)
    small = np.stack([thumbnail(decode(contents[row["key"]].picture)) for row in group])
    spread = small.std(axis=0).mean(axis=-1)
    assert spread[~inside].max() < 0.04
    assert np.median(spread[inside]) > 0.1
    assert 0.08 < inside.mean() < 0.4


def test_copies_of_a_picture_are_near_it(planted):
    rows, contents = rows_of(planted), read_shards(planted / "shards")
    group = [row for row in rows if row["regime"] == "verbatim" and row["k"] > 1]
    small = np.stack([thumbnail(decode(contents[row["key"]].picture)) for row in group])
    assert np.sqrt(((small - small.mean(axis=0)) ** 2).mean(axis=(1, 2, 3))).max() < 0.08


def test_a_sibling_differs_in_one_word_and_shows_something_else(planted):
    rows = rows_of(planted)
    caption = {row["picture_id"]: row["caption"] for row in reversed(rows)}
    siblings = [row for row in rows if row["regime"] == "sibling"]
    assert len(siblings) == 6
    for row in siblings:
        assert row["family"] != row["picture_id"]
        words = set(row["caption"].replace(",", "").split()) - {"a", "picture", "of", "clip", "art"}
        theirs = set(caption[row["family"]].replace(",", "").split())
        assert len(words - theirs) <= 1


def test_equal_plans_give_equal_bytes(planted, tmp_path):
    plant(some_pictures(), tmp_path, Plan(seed=1, per_level=1, copies=COPIES))
    for path in sorted(planted.rglob("*.tar")):
        assert (tmp_path / path.relative_to(planted)).read_bytes() == path.read_bytes()


def test_more_than_is_well_separated_is_refused(tmp_path):
    with pytest.raises(ValueError, match="well separated"):
        plant(some_pictures(), tmp_path, Plan(seed=1, per_level=40))


@pytest.fixture(scope="module")
def originals(planted):
    return truth.read_originals(planted)


def shown(originals, name):
    unit = originals.unit[originals.place[name]]
    noise = np.random.default_rng(0).normal(0, 0.02, unit.shape)
    return ((unit + noise).clip(0, 1) * 255).round().astype(np.uint8)


def test_a_noisy_copy_reproduces_its_picture(originals):
    names = [name for name in originals.ids if name not in originals.outside]
    drawn = np.stack([shown(originals, name) for name in names])
    assert truth.which(drawn, originals) == names


def test_another_filling_reproduces_the_template(originals):
    (name,) = originals.outside
    drawn = shown(originals, name)
    drawn[~originals.outside[name]] = (255, 0, 255)
    assert truth.which(drawn[None], originals) == [name]


def test_the_filling_alone_does_not(originals):
    (name,) = originals.outside
    drawn = 255 - shown(originals, name)
    drawn[~originals.outside[name]] = shown(originals, name)[~originals.outside[name]]
    assert truth.which(drawn[None], originals) == [None]


def test_new_scenes_reproduce_nothing(originals):
    rng = np.random.default_rng(9)
    drawn = [thumbnail(scenes.draw(scenes.caption(rng), rng)) for _ in range(24)]
    found = truth.which((np.stack(drawn) * 255).astype(np.uint8), originals)
    assert sum(name is not None for name in found) <= 1


def test_captions_of_two_pictures_are_left_out(planted):
    rows = truth.captions_of(planted, singles=5)
    assert Counter(r["regime"] for r in rows)["single"] == 5
    assert len({row["caption"] for row in rows}) == len(rows)
