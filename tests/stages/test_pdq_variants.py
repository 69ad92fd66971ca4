"""Mirrored pictures and pictures with borders, found by further hashes, through the whole job."""

import io
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pdqhash
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from sample_pictures import textured
from shard_builder import ShardBuilder

from pipeline.config import make_config
from pipeline.encoders.pdq import MIRROR
from pipeline.errors import InputError
from pipeline.io.embeddings import read_embeddings
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress

BORDERS = {"frame": (30, 20, 30, 20), "bars": (0, 45, 0, 45), "lost": (440, 330, 440, 330)}


def grey(number: int) -> Image.Image:
    """Its hash is that of the reference implementation to the bit."""
    return textured(number).convert("L").convert("RGB")


def edited(number: int, edit: str) -> Image.Image:
    picture = grey(number)
    if "mirrored" in edit:
        picture = ImageOps.mirror(picture)
    return ImageOps.expand(picture, BORDERS.get(edit.removeprefix("mirrored-"), 0), "white")


ORIGINALS = [(number, "") for number in range(8)]
EDITED = [
    (0, "mirrored"),
    (1, "frame"),
    (2, "mirrored-frame"),
    (3, "bars"),
    (3, "mirrored"),
    (4, "lost"),
    (5, "lost"),
    (5, "mirrored-lost"),
    (20, "lost"),
]
GROUPS = [{"0", "0-mirrored"}, {"1", "1-frame"}, {"2", "2-mirrored-frame"}]
GROUPS += [{"3", "3-bars", "3-mirrored"}, {"4", "4-lost"}, {"5", "5-lost", "5-mirrored-lost"}]
GROUPS += [{"6"}, {"7"}, {"20-lost"}]


def name(number: int, edit: str) -> str:
    return f"{number}-{edit}".rstrip("-")


def shards(folder: Path, samples: list[tuple[int, str]]) -> Path:
    builder = ShardBuilder(folder / "00000.tar")
    for number, edit in samples:
        data = io.BytesIO()
        edited(number, edit).save(data, "PNG")
        builder.add(name(number, edit), data.getvalue(), "a picture", extension="png")
    builder.write()
    return folder


def run(out: Path, source: Path, variants=("mirrored", "trimmed"), least=50, **sections):
    values = {"dataset": {"shards": [str(source)]}, **sections}
    values |= {"embed": {"encoders": {"pdq": {"kind": "pdq"}}}, "match": {"encoders": []}}
    pairs = {"min_similarity": {}, "pdq_variants": variants, "pdq_min_quality": least}
    values["pairs"] = pairs
    return run_job(Job(make_config(values), out, DEDUP), SilentProgress())


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def keys(out: Path) -> dict[int, str]:
    return {r["image_id"]: r["key"] for p in out.glob("images/part-*") for r in rows(p)}


def groups(out: Path) -> list[set[str]]:
    found: dict[int, set[str]] = {}
    key = keys(out)
    for row in rows(out / "duplicates.parquet"):
        found.setdefault(row["merged_into"] or row["group_id"], set()).add(key[row["image_id"]])
    return sorted(found.values(), key=sorted)


def pairs(out: Path) -> list[tuple[str, str, float]]:
    key = keys(out)
    table = rows(out / "pairs/pdq/part-00000.parquet")
    assert {row["reason"] for row in table} <= {"pdq"}
    return sorted(
        (*sorted((key[row["id_a"]], key[row["id_b"]])), row["similarity"]) for row in table
    )


def by_brute_force(samples, turned=True) -> list[tuple[str, str, float]]:
    """Over the reference's hashes of the pictures and of what is known to be in their borders."""
    codes = {}
    for number, edit in samples:
        whole = edited(number, edit)
        inside = ImageOps.mirror(grey(number)) if "mirrored" in edit else grey(number)
        found = [pdqhash.compute(np.asarray(image)) for image in (whole, inside)]
        codes[name(number, edit)] = [np.packbits(bits) for bits, quality in found if quality >= 50]
    result = []
    for a, b in combinations(sorted(codes), 2):
        images = [mask ^ code for code in codes[b] for mask in (np.zeros_like(MIRROR), MIRROR)]
        bits = [np.bitwise_count(one ^ other).sum() for one in codes[a] for other in images]
        if bits and min(bits) <= 31:
            result.append((a, b, 1 - min(bits) / 256))
    return result


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("variants")
    run(root / "run", shards(root / "shards", ORIGINALS + EDITED))
    return root


def test_the_pairs_are_those_of_brute_force_at_the_least_distance(done):
    found = pairs(done / "run")
    assert found == by_brute_force(ORIGINALS + EDITED)
    assert len(found) == 10


def test_edits_join_their_picture_and_a_kept_one_stands_for_each_dropped(done):
    assert groups(done / "run") == sorted(GROUPS, key=sorted)
    for row in rows(done / "run/duplicates.parquet"):
        assert row["similarity_to_representative"] >= 1 - 31 / 256


def test_the_stored_hash_is_the_standard_one_and_what_is_inside_lies_beside(done):
    table = rows(done / "run/embeddings/pdq/metadata/metadata_00000.parquet")
    codes = np.load(done / "run/embeddings/pdq/img_emb/img_emb_00000.npy")
    for row, code, (number, edit) in zip(table, codes, ORIGINALS + EDITED, strict=True):
        assert row["key"] == name(number, edit)
        bits, quality = pdqhash.compute(np.asarray(edited(number, edit)))
        assert np.array_equal(np.unpackbits(code), bits) and row["quality"] == quality
        bordered = edit.removeprefix("mirrored-") in BORDERS
        assert (row["trimmed"] is not None) == (row["trimmed_quality"] is not None) == bordered
    ids, _ = read_embeddings(done / "run", "pdq", normalise=False)
    both, _ = read_embeddings(done / "run", "pdq", normalise=False, trimmed=True)
    assert len(np.unique(ids)) == len(ids) == len(table)
    assert len(both) == len(ids) + sum(row["trimmed"] is not None for row in table)


def test_recall_counts_what_the_join_was_to_find(done):
    recall = json.loads((done / "run/recall/pdq.json").read_text())
    assert (recall["pairs_true"], recall["recall"]) == (10, 1.0)
    assert recall["pictures_sampled"] == len(ORIGINALS + EDITED)


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        ((), set()),
        (("mirrored",), {("0", "0-mirrored"), ("3", "3-mirrored"), ("5-lost", "5-mirrored-lost")}),
        (("trimmed",), {("1", "1-frame"), ("3", "3-bars"), ("4", "4-lost"), ("5", "5-lost")}),
    ],
)
def test_each_can_be_left_out(done, tmp_path, variants, expected):
    run(tmp_path / "run", done / "shards", variants)
    assert {(a, b) for a, b, _ in pairs(tmp_path / "run")} == expected


def test_a_hash_of_too_little_quality_does_not_hide_the_other(done, tmp_path):
    """Of a picture lost in its border the whole says little, what is inside says all."""
    found = run(tmp_path / "run", done / "shards", least=90)
    assert groups(tmp_path / "run") == sorted(GROUPS, key=sorted)
    assert found.rejected["pairs"] == {}
    whole = run(tmp_path / "whole", done / "shards", ("mirrored",), least=90)
    assert whole.rejected["pairs"] == {"featureless": sum("lost" in edit for _, edit in EDITED)}


def test_shards_that_are_added_find_the_same_groups(done, tmp_path):
    run(tmp_path / "old", shards(tmp_path / "a", ORIGINALS[::2] + EDITED[1::2]))
    rest = shards(tmp_path / "b", ORIGINALS[1::2] + EDITED[::2])
    run(tmp_path / "new", rest, onto=str(tmp_path / "old"))
    assert groups(tmp_path / "new") == sorted(GROUPS, key=sorted)
    with pytest.raises(InputError, match="pairs are of pdq_variants"):
        run(tmp_path / "other", rest, ("trimmed",), onto=str(tmp_path / "old"))


def test_what_an_evaluation_set_holds_is_found_mirrored_and_framed(done, tmp_path):
    run(tmp_path / "run", shards(tmp_path / "a", EDITED), against=[str(done / "run")])
    run(tmp_path / "other", shards(tmp_path / "b", ORIGINALS), against=[str(tmp_path / "a")])
    for out, expected in (("run", EDITED), ("other", ORIGINALS[:6])):
        key = keys(tmp_path / out)
        found = rows(tmp_path / out / "export/contaminated.parquet")
        assert {key[row["image_id"]] for row in found} == {name(*sample) for sample in expected}
        for row in found:
            mine = key[row["image_id"]]
            near = [p for p in by_brute_force(ORIGINALS + EDITED) if mine in p[:2]]
            assert row["similarity"] >= max((p[2] for p in near), default=0)
