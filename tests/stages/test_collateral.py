"""verify from an erased model to its report, on a real training set and tiny models.

Three models beside the base: one with the same weights, one a little off, one ruined. What each
measure should say of them is known.
"""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from shard_builder import ShardBuilder, jpeg, picture
from tiny_model import RESOLUTION, build_tiny_pipeline

from pipeline.config import make_config
from pipeline.generation.backend import fresh_model
from pipeline.generation.seeds import gaussian
from pipeline.ids import hash63, prompt_id
from pipeline.io import schemas
from pipeline.io.digest import sha256_file
from pipeline.io.images import to_square
from pipeline.io.runjson import write_run
from pipeline.io.tables import write_rows
from pipeline.jobs import Job, choose_stages, run_job
from pipeline.registry import DEDUP, REPORT, VERIFY
from pipeline.runner.part import Context
from pipeline.runner.progress import SilentProgress
from pipeline.stages import collateral, describe, nearness
from pipeline.stages.gallery import descriptor_of, open_gallery
from pipeline.stages.split import split_findings

METHODS = ("same", "near", "ruined")
N_TARGETS, N_CONTROLS = 4, 24


def settings(root, **sections):
    verify = {
        "per_prompt": 2,
        "per_other": 4,
        "empty_prompt": 2,
        "unseen": [str(root / "other")],
        "unseen_pictures": 5,
        **sections.pop("verify", {}),
    }
    return make_config(
        {
            "train": str(root / "train"),
            "findings": str(root / "audit"),
            "erased": str(root / "erased"),
            "model": {"path": str(root / "model")},
            "generate": {"steps": 2, "batch_size": 16},
            "match": {"compare_px": 16},
            "erase": {"max_groups": 2},
            "verify": verify,
            **sections,
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The training set, an audit's findings, pictures never trained, and the models."""
    root = tmp_path_factory.mktemp("collateral")
    shard = ShardBuilder(root / "shards" / "00000.tar")
    for number in range(N_TARGETS + 2 * N_CONTROLS):
        shard.add(f"p{number:02d}", jpeg(picture(number)), f"picture {number}")
    shard.write()
    other = ShardBuilder(root / "other" / "00000.tar")
    for number in (0, *range(900, 904)):  # the first was trained on
        other.add(f"u{number}", jpeg(picture(number)), f"unseen {number}")
    other.write()
    train = make_config({"dataset": {"shards": [str(root / "shards")]}})
    run_job(Job(train, root / "train", DEDUP), SilentProgress())
    images = pq.read_table(root / "train" / "images/part-00000.parquet").to_pylist()
    groups = pq.read_table(root / "train" / "duplicates.parquet").to_pylist()
    group_of = {row["image_id"]: row["group_id"] for row in groups}
    rows = [_finding(row, group_of[row["image_id"]]) for row in images]
    write_run(root / "audit", make_config({"train": str(root / "train")}))
    write_rows(root / "audit" / "findings.parquet", rows, schemas.FINDINGS)
    base = build_tiny_pipeline(root / "model")
    for method, scale in zip(METHODS, (0.0, 0.002, 1.0), strict=True):
        _edited(base, root / "erased" / method, scale)
    return root


def _finding(image, group):
    number = int(image["key"][1:])
    target = number < N_TARGETS
    return {
        "prompt_id": prompt_id(image["caption"]),
        "caption": image["caption"],
        "group_id": group,
        "role": "target" if target else "control",
        "n_duplicates": 1,
        "n_caption_copies": 1,
        "verdict": "verbatim" if target else "none",
        "calibration": "",
        "n_generated": 4,
        "n_hits": 4 if target else 0,
        "seeds_hit": [],
        "clique_size": 1,
        "clique_capped": False,
        "image_ids": [image["image_id"]] if target else [],
        "n_unet_forwards": 0,
    }


def _edited(base, folder, scale):
    shutil.copytree(base, folder)
    model = fresh_model(base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.unet.parameters():
            tensor.add_(scale * torch.randn(tensor.shape, generator=generator))
    model.pipe.unet.save_pretrained(folder / "unet")
    (folder / "erasure.json").write_text(json.dumps({"method": folder.name}))


@pytest.fixture(scope="module")
def verified(root):
    summary = run_job(Job(settings(root), root / "out", (*VERIFY, *REPORT)), SilentProgress())
    assert not summary.failed
    assert summary.rejected["collateral"] == {"in_training_set": 1 + len(METHODS)}
    return root / "out", json.loads((root / "out/verification.json").read_text())["methods"]


def table(run, pattern):
    return [row for path in sorted(run.glob(pattern)) for row in pq.read_table(path).to_pylist()]


def test_every_model_is_measured_on_the_same_pictures(verified):
    run, _ = verified
    rows = table(run, "collateral/part-*.parquet")
    places = {}
    for row in rows:
        places.setdefault(row["method"], set()).add((row["subset"], row["picture_id"]))
    assert set(places) == {"base", *METHODS}
    assert len({frozenset(own) for own in places.values()}) == 1
    subsets = [subset for subset, _ in places["base"]]
    counts = {subset: subsets.count(subset) for subset in set(subsets)}
    assert counts == {"target": 2, "kept": 1, "control": N_CONTROLS, "unseen": 4}
    assert len(rows) == len(places) * len(subsets) * collateral.LEVELS


def test_a_loss_is_what_the_model_has_on_that_picture(root, verified):
    run, _ = verified
    row = next(r for r in table(run, "collateral/part-near.parquet") if r["subset"] == "control")
    gallery = open_gallery(Context(run, settings(root)))
    model = fresh_model(root / "erased" / "near")
    square = to_square(gallery.images.picture(row["picture_id"]), RESOLUTION)
    assert gallery.images.row(row["picture_id"])["caption"] == row["caption"]
    timesteps = torch.tensor([row["timestep"]])
    seed = hash63("collateral", 0, row["picture_id"], row["timestep"])
    noise = gaussian(model.latent_shape, [seed])
    with torch.no_grad():
        alpha, sigma = model.alpha_sigma(timesteps)
        x_t = alpha * model.encode_pictures(square[None]) + sigma * noise
        predicted = model.predict_noise(x_t, timesteps, model.embed_text([row["caption"]]))
    assert row["loss"] == pytest.approx(float((predicted - noise).square().mean()), rel=1e-4)


def test_the_same_weights_have_changed_nothing(verified):
    said = verified[1]["same"]
    assert said["collateral"]["oracle"] is None
    assert (said["damaged"], said["damage"]) == (False, [])
    for subset, found in said["collateral"]["loss"].items():
        assert found["change"] == 0, subset
    assert said["collateral"]["loss"]["control"]["status"] == "within"
    assert said["collateral"]["loss"]["target"]["status"] is None
    assert said["collateral"]["kid"]["control"]["kid"] == 0
    assert said["collateral"]["kid"]["control"]["status"] == "within"
    assert {name: found["ratio"] for name, found in said["collateral"]["drift"].items()} == {
        "near": 0,
        "mid": 0,
        "far": 0,
    }


def test_a_little_off_is_no_damage_and_ruin_is(verified):
    _, methods = verified
    near, ruined = (methods[name] for name in ("near", "ruined"))
    assert not near["damaged"]
    assert near["collateral"]["loss"]["control"]["change"] != 0
    assert ruined["damaged"]
    assert any("denoising loss on control" in sentence for sentence in ruined["damage"])
    assert ruined["collateral"]["loss"]["control"]["status"] == "beyond"
    low, high = ruined["collateral"]["loss"]["control"]["interval"]
    assert 0.05 < low < ruined["collateral"]["loss"]["control"]["change"] < high


def test_what_is_said_is_what_the_tables_hold(verified):
    run, methods = verified
    losses = {}
    for row in table(run, "collateral/part-*.parquet"):
        if row["subset"] == "control":
            losses.setdefault((row["method"], row["timestep"]), []).append(row["loss"])
    times = sorted({timestep for _, timestep in losses})
    changes = [np.mean(losses["ruined", t]) / np.mean(losses["base", t]) - 1 for t in times]
    said = methods["ruined"]["collateral"]["loss"]["control"]
    assert said["pictures"] == N_CONTROLS
    assert [level["timestep"] for level in said["levels"]] == times
    assert [level["change"] for level in said["levels"]] == pytest.approx(changes)
    assert said["change"] == pytest.approx(np.mean(changes))


def test_erased_pictures_are_compared_with_the_oracle(root, tmp_path):
    """The oracle is here the ruined model: its own loss is 1 of it, the base's less."""
    from pipeline.stages.spared import Spared, as_json

    oracle = str(root / "erased" / "ruined")
    context = Context(tmp_path, settings(root, verify={"oracle": oracle, "unseen": []}))
    parts = collateral.plan(context)
    assert [part.name for part in parts] == ["base", *sorted(METHODS), "oracle"]
    for part in parts:
        collateral.run(part, context)
    spared = Spared(context)
    own, same = (as_json(spared.collateral(name, []), 0.05) for name in ("ruined", "same"))
    assert own["oracle"]["change"] == 0 and own["oracle"]["pictures"] == 2
    assert same["oracle"]["change"] < 0
    before, after = own["loss"]["target"], same["oracle"]
    for level, other in zip(before["levels"], after["levels"], strict=True):
        assert (other["after"], other["before"]) == (level["before"], level["after"])
    assert own["kid"] == own["drift"] == {}


def test_few_kept_captions_cannot_tell(verified):
    for said in verified[1].values():
        assert said["collateral"]["loss"]["kept"]["interval"] is None
        assert "kept" not in said["collateral"]["kid"]  # one picture is no distribution


def test_controls_are_in_thirds_by_the_nearest_erased_picture(root, verified):
    run, methods = verified
    context = Context(run, settings(root))
    split, gallery = split_findings(context), open_gallery(context)
    encoder_index = gallery._indexes["lite0"]

    def vector(group):
        own = encoder_index.vectors(np.array([gallery.members(group)[0]]))[0].astype(np.float64)
        return own / np.linalg.norm(own)

    rows = {row["group_id"]: row for row in table(run, "nearness.parquet")}
    assert set(rows) == {row["group_id"] for row in split.controls}
    for group, row in rows.items():
        cosines = {other: float(vector(group) @ vector(other)) for other in split.groups}
        assert row["similarity"] == pytest.approx(max(cosines.values()), abs=1e-5)
        assert cosines[row["target_group"]] == pytest.approx(max(cosines.values()), abs=1e-5)
    verification = table(run, "verification.parquet")
    own = [r for r in verification if r["method"] == "ruined" and r["arm"] == "control"]
    own.sort(key=lambda row: rows[row["target_group"]]["similarity"])
    drift = methods["ruined"]["collateral"]["drift"]
    for name, some in (("far", own[:8]), ("mid", own[8:16]), ("near", own[16:])):
        ratio = sum(r["drift"] for r in some) / sum(r["seed_drift"] for r in some)
        assert drift[name]["ratio"] == pytest.approx(ratio)
        assert drift[name]["captions"] == 8
    bounds = [x for name in ("far", "mid", "near") for x in drift[name]["similarity"]]
    assert bounds == sorted(bounds)


def test_the_report_shows_it(verified):
    run, _ = verified
    text = (run / "report/index.html").read_text(encoding="utf-8")
    assert "denoising loss" in text and "KID" in text and "nearest third" in text


def test_again_in_halves_of_a_batch_gives_the_same_losses(root, verified, tmp_path):
    small = settings(root, generate={"steps": 2, "batch_size": 3})
    context = Context(tmp_path, small)
    part = next(part for part in collateral.plan(context) if part.name == "near")
    collateral.run(part, context)
    again = {
        (r["picture_id"], r["timestep"]): r["loss"]
        for r in table(tmp_path, "collateral/part-near.parquet")
    }
    run, _ = verified
    for row in table(run, "collateral/part-near.parquet"):
        assert again[row["picture_id"], row["timestep"]] == pytest.approx(row["loss"], rel=1e-5)


def test_no_pictures_no_losses(root, tmp_path):
    context = Context(tmp_path, settings(root, verify={"loss_pictures": 0}))
    assert collateral.plan(context) == []
    one = Context(tmp_path, settings(root, verify={"loss_pictures": 1, "unseen": []}))
    for part in collateral.plan(one):
        assert [chosen[0] for chosen in part.params["pictures"]] == ["target", "kept", "control"]
        assert part.params["unseen"] == 0


def test_settings_of_the_verdict_do_not_measure_again(root, tmp_path):
    def parts(**verify):
        return collateral.plan(Context(tmp_path, settings(root, verify=verify)))

    assert parts() == parts(max_loss_change=0.5, max_rate=0.5)
    assert "verify" not in collateral.STAGE.settings


def test_without_a_descriptor_there_is_neither_kid_nor_nearness(root, tmp_path):
    context = Context(tmp_path, settings(root, match={"encoders": ["pixels"]}))
    assert descriptor_of(context) is None
    assert nearness.plan(context) == [] == describe.plan(context)
    assert open_gallery(context).nearest_group([1], [2]) == []


def test_nothing_erased_nothing_to_measure(root, tmp_path):
    context = Context(tmp_path, settings(root, erased=str(tmp_path)))
    assert collateral.plan(context) == nearness.plan(context) == []


def test_configurations_that_name_verify_measure_first():
    names = [stage.name for stage in choose_stages(["redraw", "verify"])]
    assert names[-5:] == ["redraw", "collateral", "describe", "nearness", "verify"]


def test_the_base_is_left_as_it_was(root, verified):
    assert verified
    assert sha256_file(root / "model") == sha256_file(build_tiny_pipeline(root / "again"))


def test_captions_of_one_picture_are_one_unit_of_kid(tmp_path):
    from pipeline.detection.kid import distance
    from pipeline.stages.spared import Spared

    rng = np.random.default_rng(0)
    rows, units = [], []
    for method in ("base", "adv"):
        for caption in range(12):  # two captions a picture, and two captions without one
            for number in range(3):
                vector = rng.standard_normal(8)
                row = {"key": f"{method}{caption}{number}", "method": method, "arm": "kept"}
                row |= {"caption": f"caption {caption:02d}", "number": number}
                row |= {"target_group": 100 + caption // 2 if caption < 10 else None}
                rows.append(row | {"vector": (vector / np.linalg.norm(vector)).astype(np.float32)})
                units.append(caption // 2 if caption < 10 else caption)
    write_rows(tmp_path / "described/part-a.parquet", rows, schemas.DESCRIBED)
    found = Spared(Context(tmp_path, make_config({}))).collateral("adv", []).kid
    assert list(found) == ["kept"]
    vectors = np.stack([row["vector"] for row in rows]) * np.sqrt(8)
    expected = distance(vectors[:36], vectors[36:], np.array(units[:36]))
    assert found["kept"].kid.n == 7 and found["kept"].drawings == 36
    assert found["kept"].kid.value == pytest.approx(expected.kid.value, abs=1e-6)
