"""audit --generations: pictures that another generator made, from the command line."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from cli_runner import call, rows
from PIL import Image
from shard_builder import ShardBuilder, jpeg, picture

SETS = ("--set", "match.compare_px=32")
TRAINED = 70


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> Path:
    """A dedup run of 70 different pictures, three of them twice."""
    root = tmp_path_factory.mktemp("train")
    builder = ShardBuilder(root / "shards/00000.tar")
    for number in range(TRAINED):
        builder.add(f"p{number}", jpeg(picture(number)), f"picture {number}")
    for number in range(3):
        builder.add(f"c{number}", jpeg(picture(number), 70), f"picture {number}")
    builder.write()
    code, said = call("dedup", root / "shards", "--out", root / "run", *SETS)
    assert code == 0, said
    return root / "run"


def audit(generations: Path, train: Path | None, out: Path, *more: object) -> tuple[int, str]:
    given = [] if train is None else ["--train", train]
    return call("audit", "--generations", generations, *given, "--out", out, *SETS, *more)


def sources(out: Path) -> dict[str, dict]:
    """Verdict rows by the name that the user knows the picture by."""
    keys = {
        row["generation_id"]: f"{row['shard']}{'/' if row['shard'] else ''}{row['key']}"
        for path in sorted((out / "collected").glob("*.parquet"))
        for row in rows(path)
    }
    return {keys[row["generation_id"]]: row for row in rows(out / "verdicts.parquet")}


@pytest.fixture(scope="module")
def unconditional(train, tmp_path_factory) -> tuple[Path, int, str]:
    """A GAN's folder: copies in all shapes, strangers, and what no picture can be read from."""
    root = tmp_path_factory.mktemp("gan")
    folder = root / "samples/deep"
    folder.mkdir(parents=True)
    copy = picture(5)
    (folder / "copy.png").write_bytes(png(copy))
    (folder / "large.jpeg").write_bytes(jpeg(copy.resize((777, 333))))
    (folder / "grey.png").write_bytes(png(picture(6).convert("L")))
    see_through = picture(7).convert("RGBA")
    see_through.putpixel((0, 0), (0, 0, 0, 0))
    (folder / "transparent.webp.png").write_bytes(png(see_through))
    for number in range(100, 130):
        (folder / f"stranger{number}.png").write_bytes(png(picture(number, 48)))
    (folder / "black.png").write_bytes(png(Image.new("RGB", (64, 64))))
    moving = [picture(8), picture(9)]
    (folder / "moving.png").write_bytes(png(moving[0], save_all=True, append_images=moving[1:]))
    (folder / "cut.png").write_bytes(png(copy)[: len(png(copy)) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "words.jpg").write_bytes(b"no picture at all")
    buffer = io.BytesIO()
    copy.save(buffer, "GIF")
    (folder / "old.gif").write_bytes(buffer.getvalue())
    (folder / "lost.png").symlink_to(folder / "nowhere.png")
    (folder / "weights.npz").write_bytes(b"x")
    (folder / ".hidden.png").write_bytes(png(copy))
    code, said = audit(root / "samples", train, root / "run")
    return root / "run", code, said


def test_every_file_is_a_row_with_its_reason(unconditional):
    out, code, said = unconditional
    assert code == 2, said  # too many of these are rejected
    manifest = [row for path in (out / "collected").glob("*.parquet") for row in rows(path)]
    reasons = {row["key"].rpartition("/")[2]: row["reason"] for row in manifest if row["reason"]}
    assert reasons == {
        "moving.png": "animated",
        "cut.png": "truncated",
        "empty.jpg": "empty",
        "words.jpg": "not_an_image",
        "old.gif": "format",
        "lost.png": "unreadable",
    }
    assert len(manifest) == 35 + len(reasons)
    drawn = [row for path in (out / "generations").glob("*.parquet") for row in rows(path)]
    assert len(drawn) == 35
    assert [row["reason"] for row in drawn if row["status"] != "ok"] == ["blank"]
    assert all(row["seed"] is None and row["scheduler"] is None for row in drawn)


def test_copies_are_told_from_strangers_by_the_adaptive_threshold(unconditional):
    out, _, _ = unconditional
    found = {name.rpartition("/")[2]: row for name, row in sources(out).items()}
    assert len(found) == 35
    hits = {name for name, row in found.items() if row["verdict"] == "verbatim"}
    assert {"copy.png", "large.jpeg", "transparent.webp.png"} <= hits
    for name, row in found.items():
        if name == "black.png":
            assert row["verdict"] == "none"
        else:
            assert (row["l2_ratio_50nn"] < 1) == (row["verdict"] == "verbatim"), name
    assert not any(name.startswith("stranger") for name in hits)


def test_the_adaptive_ratio_is_over_the_50_nearest_of_the_whole_index(unconditional, train):
    """Against brute force over all kept pictures of the set, in float64."""
    out, _, _ = unconditional
    row = next(r for name, r in sources(out).items() if name.endswith("stranger110.png"))
    image = _square(picture(110, 48))
    distances = sorted(
        float(np.sqrt(np.mean((image - _square(_trained(number))) ** 2)))
        for number in range(TRAINED)
    )
    expected = distances[0] / (0.5 * np.mean(distances[:50]))
    # copies 0 to 2 stand for their groups, and may be the ones kept
    assert row["l2_ratio_50nn"] == pytest.approx(expected, rel=0.02)
    assert row["l2"] == pytest.approx(distances[0], rel=0.02)


def _trained(number: int) -> Image.Image:
    return Image.open(io.BytesIO(jpeg(picture(number)))).convert("RGB")


def _square(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((32, 32), Image.Resampling.BOX), np.float64) / 255


def test_without_captions_findings_are_empty_and_extracted_tells(unconditional):
    out, _, _ = unconditional
    assert rows(out / "findings.parquet") == [] == rows(out / "prompts.parquet")
    extracted = rows(out / "extracted.parquet")
    by_image = {row["generation_id"]: row["image_id"] for row in rows(out / "verdicts.parquet")}
    assert sum(row["n_generations"] for row in extracted) >= 3
    for row in extracted:
        assert by_image[row["generation_id"]] == row["image_id"]
    summary = json.loads((out / "report/summary.json").read_text())["extracted"]
    assert summary["samples"]["n"] == 35
    hits = sum(row["n_generations"] for row in extracted)
    assert summary["samples"]["hits"] == hits
    assert summary["samples"]["ci_low"] < hits / 35 < summary["samples"]["ci_high"]
    assert summary["per"] == 35 and summary["distinct"] == pytest.approx(len(extracted))
    page = (out / "report/index.html").read_text()
    assert "of another generator" in page and "per 1,000" in page


def test_captions_come_from_txt_and_json_members_of_tars(train, tmp_path):
    builder = ShardBuilder(tmp_path / "tars/a.tar")
    for draw in range(4):
        builder.members.append((f"x{draw}.png", png(picture(11, 96 + draw))))
        builder.members.append((f"x{draw}.txt", b"picture 11\n"))
    for draw in range(4):
        builder.members.append((f"y{draw}.jpg", jpeg(picture(200 + draw))))
        told = json.dumps({"prompt": "something else", "seed": 7 + draw})
        builder.members.append((f"y{draw}.json", told.encode()))
    builder.members.append(("z.png", png(picture(12))))
    builder.write(metadata=False)
    code, said = audit(tmp_path / "tars", train, tmp_path / "run")
    assert code == 0, said
    findings = {row["caption"]: row for row in rows(tmp_path / "run/findings.parquet")}
    assert set(findings) == {"picture 11", "something else"}
    memorized = findings["picture 11"]
    assert (memorized["verdict"], memorized["n_hits"], memorized["rate"]) == ("verbatim", 4, 1.0)
    assert memorized["group_id"] is not None and memorized["n_unet_forwards"] == 0
    assert findings["something else"]["verdict"] == "none"
    found = sources(tmp_path / "run")
    assert found["a/z"]["verdict"] == "verbatim" and found["a/z"]["prompt_id"] is None
    assert sorted(row["seed"] for name, row in found.items() if "/y" in name) == [7, 8, 9, 10]


def test_our_own_generations_can_be_given(train, tmp_path):
    """The tars of an audit hold blank drawings that its Parquet calls rejected."""
    (tmp_path / "first").mkdir()
    for number in range(3):
        (tmp_path / f"first/{number}.png").write_bytes(png(picture(20 + number)))
        (tmp_path / f"first/{number}.txt").write_text(f"picture {20 + number}")
    (tmp_path / "first/3.png").write_bytes(png(Image.new("RGB", (9, 9))))
    assert audit(tmp_path / "first", train, tmp_path / "run")[0] == 2
    code, said = audit(tmp_path / "run/generations", train, tmp_path / "again")
    assert code == 2, said  # one of four is blank
    for name in ("run", "again"):
        verdicts = [row["verdict"] for row in rows(tmp_path / name / "verdicts.parquet")]
        assert sorted(verdicts) == ["none", "verbatim", "verbatim", "verbatim"]


def test_without_a_training_run_nothing_is_matched_and_the_rest_runs(tmp_path):
    (tmp_path / "g").mkdir()
    for number in range(3):
        (tmp_path / f"g/{number}.png").write_bytes(png(picture(1, 96 + number)))
        (tmp_path / f"g/{number}.txt").write_text("always the same")
        (tmp_path / f"g/alone{number}.png").write_bytes(png(picture(50 + number)))
    code, said = audit(tmp_path / "g", None, tmp_path / "run")
    assert code == 0 and "without --train nothing is matched" in said
    finding = rows(tmp_path / "run/findings.parquet")[0]
    assert (finding["verdict"], finding["clique_size"]) == ("undecided", 3)
    verdicts = {row["verdict"] for row in rows(tmp_path / "run/verdicts.parquet")}
    assert verdicts == {"undecided"}
    assert rows(tmp_path / "run/matches.parquet") == [] == rows(tmp_path / "run/extracted.parquet")
    page = (tmp_path / "run/report/index.html").read_text()
    assert "No training picture was drawn" not in page and "no training set" in page.lower()


def test_pictures_of_any_format_are_clustered(tmp_path):
    folder = tmp_path / "g"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(jpeg(picture(5), 90 - number))
        (folder / f"{number}.txt").write_text("the same three times")
    clusters = ("--set", "clusters={encoder: lite0, eps: 0.1, min_size: 3}")
    code, said = audit(folder, None, tmp_path / "run", *clusters)
    assert code == 0, said
    (finding,) = rows(tmp_path / "run/findings.parquet")
    assert finding["density_cluster_size"] == 3


def test_a_class_name_is_no_caption(train, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.stages.collect.MOST_OF_A_CAPTION", 4)
    (tmp_path / "g").mkdir()
    for number in range(6):
        (tmp_path / f"g/{number}.png").write_bytes(png(picture(30 + number)))
        (tmp_path / f"g/{number}.txt").write_text("class" if number < 5 else "caption")
    assert audit(tmp_path / "g", train, tmp_path / "run")[0] == 0
    assert [row["caption"] for row in rows(tmp_path / "run/findings.parquet")] == ["caption"]
    assert len(rows(tmp_path / "run/extracted.parquet")) == 6


def test_limit_takes_the_first_pictures(train, tmp_path):
    (tmp_path / "g").mkdir()
    for number in range(6):
        (tmp_path / f"g/{number}.png").write_bytes(png(picture(30 + number)))
    assert audit(tmp_path / "g", train, tmp_path / "run", "--limit", 2)[0] == 0
    assert sorted(sources(tmp_path / "run")) == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--generations", "EMPTY"], "no picture and no .tar"),
        (["--generations", "/nowhere"], "no .tar file there"),
        (["--generations", "EMPTY", "--model", "m"], "give one of them"),
        (["--generations", "EMPTY", "--prompts", "p.txt"], "leave --prompts out"),
        (["--generations", "EMPTY", "--train", "EMPTY"], "no duplicates.parquet"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, says):
    (tmp_path / "empty").mkdir()
    given = [str(tmp_path / "empty") if a == "EMPTY" else a for a in arguments]
    code, said = call("audit", *given, "--out", tmp_path / "run")
    assert code == 1 and says in " ".join(said.split())
