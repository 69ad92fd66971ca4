"""What looks like memorization and is not, drawn for the purpose, from the command line.

Every caption has four pictures, as from four seeds; the training set and the pictures are made so
that distances alone would convict.
"""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from cli_runner import call, rows
from PIL import Image, ImageDraw
from shard_builder import ShardBuilder, picture

SIDE = 64
SETS = ("--set", "match.compare_px=32")
# only copies are near-duplicates, so that each common object is a group of its own
STRICT = ["pairs.min_similarity={lite0: 0.99999}", "pairs.pdq_max_distance=0"]
STRICT += ["pairs.pdq_variants=[]", "borderline.neighbours=0", "groups.placeholder_size=5"]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def noisy(image: Image.Image, seed: int, sigma: float = 2) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, sigma, (*image.size[::-1], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def frame(colour: str) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), colour)


def gradient() -> Image.Image:
    line = np.linspace(30, 220, SIDE)
    grey = np.add.outer(line, line) / 2
    return Image.fromarray(np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8))


def cup(place: float) -> Image.Image:
    """A common object: a grey cup on white, a little to the side."""
    image = frame("white")
    x = int(20 + 2 * place)  # drawn halfway between two that were trained on
    draw = ImageDraw.Draw(image)
    draw.rectangle((x, 22, x + 20, 46), fill=(150, 150, 158))
    draw.ellipse((x + 16, 26, x + 30, 40), outline=(150, 150, 158), width=3)
    return image


def no_image() -> Image.Image:
    """What shops show where a picture is missing."""
    image = frame("lightgrey")
    draw = ImageDraw.Draw(image)
    draw.rectangle((14, 20, 50, 46), outline="grey", width=4)
    draw.line((14, 46, 34, 28, 50, 46), fill="grey", width=4)
    return image


def half(left: Image.Image, right: Image.Image) -> Image.Image:
    image = left.resize((SIDE, SIDE))
    image.paste(right.resize((SIDE, SIDE)).crop((SIDE // 2, 0, SIDE, SIDE)), (SIDE // 2, 0))
    return image


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("traps")
    trained = {f"p{n}": (picture(n, SIDE), f"picture {n}") for n in range(40)}
    trained |= {"black": (frame("black"), "censored"), "white": (frame("white"), "a white wall")}
    trained |= {"fog": (noisy(frame("silver"), 0), "fog"), "sky": (gradient(), "evening sky")}
    trained |= {f"cup{n}": (cup(n), f"cup number {n}") for n in range(5)}
    trained |= {f"missing{n}": (no_image(), f"product {n}") for n in range(6)}
    builder = ShardBuilder(root / "shards/00000.tar")
    for key, (image, caption) in trained.items():
        builder.add(key, png(image), caption, extension="png")
    builder.write()
    flags = [item for value in STRICT for item in ("--set", value)]
    code, said = call("dedup", root / "shards", "--out", root / "run", *SETS, *flags)
    assert code in (0, 2), said
    drawn = {
        "picture 1": lambda i: noisy(picture(1, SIDE), i),
        "picture 2": lambda i: picture(200 + i, SIDE),
        "censored": lambda i: frame("black"),
        "a white wall": lambda i: noisy(frame("white"), i),
        "fog": lambda i: noisy(frame("silver"), i),
        "evening sky": lambda i: noisy(gradient(), i),
        "cup number 3": lambda i: noisy(cup(2.5), i),
        "product 4": lambda i: noisy(no_image(), i),
        "nothing that was trained on": lambda i: noisy(picture(300, SIDE), i),
    }
    (root / "drawn").mkdir()
    for number, (caption, draw) in enumerate(drawn.items()):
        for i in range(4):
            (root / f"drawn/{number}-{i}.png").write_bytes(png(draw(i)))
            (root / f"drawn/{number}-{i}.txt").write_text(caption)
    given = ["--generations", root / "drawn", "--train", root / "run", "--out", root / "audit"]
    code, said = call("audit", *given, *SETS)
    assert code in (0, 2), said
    return root


@pytest.fixture(scope="module")
def findings(audited) -> dict[str, dict]:
    return {row["caption"]: row for row in rows(audited / "audit/findings.parquet")}


def test_a_copy_is_found_among_the_traps(findings):
    assert (findings["picture 1"]["verdict"], findings["picture 1"]["n_hits"]) == ("verbatim", 4)
    assert findings["picture 2"]["verdict"] == "none"


@pytest.mark.parametrize("caption", ["censored", "a white wall", "fog", "evening sky"])
def test_pictures_without_anything_on_them_are_none(findings, caption):
    found = findings[caption]
    assert (found["verdict"], found["n_hits"], found["n_generated"]) == ("none", 0, 4)
    assert found["clique_size"] == 0  # black frames are near-copies of each other


def test_a_placeholder_is_none_and_no_clique(audited, findings):
    groups = rows(audited / "run/groups.parquet")
    assert [row["group_size"] for row in groups if row["placeholder"]] == [6]
    found = findings["product 4"]
    assert (found["verdict"], found["n_hits"], found["clique_size"]) == ("none", 0, 0)


def test_the_same_picture_is_found_where_it_is_no_placeholder(audited, tmp_path):
    """The rule and nothing else clears it: six captions are too few by default."""
    shards, out = audited / "shards", tmp_path / "run"
    flags = [item for value in STRICT[:-1] for item in ("--set", value)]
    assert call("dedup", shards, "--out", out, *SETS, *flags)[0] in (0, 2)
    given = ["--generations", audited / "drawn", "--train", out, "--out", tmp_path / "audit"]
    call("audit", *given, *SETS)
    found = {row["caption"]: row for row in rows(tmp_path / "audit/findings.parquet")}
    assert found["product 4"]["verdict"] == "verbatim"
    assert found["fog"]["verdict"] == "none"


def test_a_common_object_drawn_alike_is_none(audited, findings):
    found = findings["cup number 3"]
    assert found["clique_size"] == 4 and found["n_hits"] == 0
    assert found["verdict"] == "none"
    verdicts = [
        row
        for row in rows(audited / "audit/verdicts.parquet")
        if row["prompt_id"] == found["prompt_id"]
    ]
    for row in verdicts:  # distances alone would convict
        assert row["tiled_l2"] <= 0.2 and row["l2"] <= 0.15 and row["nearest_ratio"] > 0.7


def test_what_repeats_and_is_like_no_training_picture_is_undecided(findings):
    found = findings["nothing that was trained on"]
    assert (found["verdict"], found["clique_size"]) == ("undecided", 4)


def test_the_report_says_how_many(audited):
    summary = json.loads((audited / "audit/report/summary.json").read_text())
    assert summary["extracted"]["samples"]["hits"] == 4
