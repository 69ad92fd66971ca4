"""An audit of every architecture, from its folder to its report, and how it is asked for."""

from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tiny_pipelines import build

from pipeline.config import make_config
from pipeline.errors import ConfigError, MissingInput, UnsafeWeights
from pipeline.generation import backend
from pipeline.generation.backend import load_model
from pipeline.generation.seeds import image_seed
from pipeline.ids import hash63
from pipeline.io.shards import iterate_samples
from pipeline.jobs import Job, choose_stages, run_job
from pipeline.registry import AUDIT, REPORT
from pipeline.runner.part import Context
from pipeline.runner.progress import SilentProgress
from pipeline.stages.models import model_fingerprint, model_inputs

CAPTIONS = ["a cat", "two dogs", "a hat"]


def config(folder, prompts=None, **sections):
    values = {
        "model": {"path": str(folder), **sections.pop("model", {})},
        "screen": {"seeds": 2, "steps": 2, "batch_size": 4},
        "generate": {
            "per_prompt": 2,
            "steps": 4,
            "guidance": 3.0,
            "samples": 5,
            "prompts_per_part": 2,
            **sections.pop("generate", {}),
        },
        "match": {"compare_px": 16},
        "prompts": {"file": str(prompts) if prompts else None},
        **sections,
    }
    return make_config(values)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(CAPTIONS))
    return path


def audit(settings, out):
    return run_job(Job(settings, out, (*AUDIT, *REPORT)), SilentProgress())


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize(
    ("kind", "predicts"),
    [
        ("sd1", "noise"),
        ("sdxl", "noise"),
        ("pixart", "noise"),
        ("sd3", "velocity"),
        ("flux", "velocity"),
    ],
)
def test_an_audit_without_training_pictures(tmp_path, prompts, kind, predicts):
    folder = build(kind, tmp_path / "model")
    model = {"resolution": 16} if kind == "flux" else {}
    summary = audit(config(folder, prompts, model=model), tmp_path / "run")
    assert not summary.failed
    screened = rows(tmp_path / "run" / "screen.parquet")
    assert len(screened) == 3 * 2 * 3  # two steps, and the late one
    assert {row["predicts"] for row in screened} == {predicts}
    for row in screened:  # the captions are told apart from the first step on
        gap = row["eps_uncond_sq"] + row["eps_text_sq"] - 2 * row["eps_dot"]
        assert gap > 1e-9 * row["eps_text_sq"]
    findings = rows(tmp_path / "run" / "findings.parquet")
    assert {row["caption"] for row in findings} == set(CAPTIONS)
    assert all(row["n_generated"] == 2 and row["noise_gap"] > 0 for row in findings)
    assert (tmp_path / "run" / "report" / "index.html").is_file()


def test_an_audit_of_a_model_without_captions(tmp_path, prompts):
    """It draws so many pictures, in parts, each with a seed of its own."""
    folder = build("ddpm", tmp_path / "model")
    summary = audit(config(folder, prompts), tmp_path / "run")
    assert not summary.failed
    drawn = [r for p in sorted((tmp_path / "run").glob("generations/*.parquet")) for r in rows(p)]
    assert len(drawn) == 5
    assert {row["prompt_id"] for row in drawn} == {None}
    assert {r["seed"] for r in drawn} == {image_seed(0, hash63("sample"), n) for n in range(5)}
    assert len({row["generation_id"] for row in drawn}) == 5
    pictures = [
        sample["png"]
        for tar in sorted((tmp_path / "run").glob("generations/*.tar"))
        for sample in iterate_samples(tar, {row["key"] for row in drawn})
    ]
    assert len(set(pictures)) == 5
    assert not rows(tmp_path / "run" / "screen.parquet")
    assert len(rows(tmp_path / "run" / "verdicts.parquet")) == 5
    assert not rows(tmp_path / "run" / "findings.parquet")
    assert (tmp_path / "run" / "report" / "index.html").is_file()


def test_where_there_is_no_room_the_run_is_the_same(tmp_path, prompts, monkeypatch):
    folder = build("sd1", tmp_path / "model")
    assert not audit(config(folder, prompts), tmp_path / "whole").failed
    draw, output = backend.DiffusionModel.draw, backend.DiffusionModel.output

    def little_room(self, captions, seeds, how):
        if len(captions) > 1:
            raise torch.OutOfMemoryError
        return draw(self, captions, seeds, how)

    def little_room_for_scores(self, x_t, timesteps, text):
        if len(x_t) > 4:
            raise torch.OutOfMemoryError
        return output(self, x_t, timesteps, text)

    monkeypatch.setattr(backend.DiffusionModel, "draw", little_room)
    monkeypatch.setattr(backend.DiffusionModel, "output", little_room_for_scores)
    assert not audit(config(folder, prompts), tmp_path / "halves").failed
    whole, halves = (rows(tmp_path / name / "screen.parquet") for name in ("whole", "halves"))
    assert [(r["prompt_id"], r["seed"]) for r in whole] == [
        (r["prompt_id"], r["seed"]) for r in halves
    ]
    for one, other in zip(whole, halves, strict=True):
        assert one["eps_dot"] == pytest.approx(other["eps_dot"], rel=1e-4)
    assert [r["generation_id"] for r in rows(tmp_path / "whole" / "verdicts.parquet")] == [
        r["generation_id"] for r in rows(tmp_path / "halves" / "verdicts.parquet")
    ]


# How it is asked for.


@pytest.mark.parametrize(
    ("kind", "generate", "says"),
    [
        ("sd1", {"scheduler": "magic"}, "'magic': one of ddim, ddpm"),
        ("sd3", {"scheduler": "ddim"}, "'ddim': not for a flow model; one of deis"),
        ("sd1", {"scheduler": "flow_euler"}, "not for a diffusion model"),
        ("sd1", {"scheduler": "lcm", "steps": 60}, "'lcm' with 60 steps: not for this model"),
        ("ddpm", {"steps": 1001}, "'default' with 1001 steps: at most 1000"),
        ("flux", {"scheduler": "flow_heun"}, "cannot keep use_dynamic_shifting"),
    ],
)
def test_a_scheduler_that_the_model_cannot_use_stops_the_run(
    tmp_path, prompts, kind, generate, says
):
    folder = build(kind, tmp_path / "model")
    settings = config(folder, prompts, generate=generate)
    with pytest.raises(ConfigError, match=says) as caught:
        run_job(Job(settings, tmp_path / "run", choose_stages(["prompts", "generate"])))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").glob("generations/*"))


def test_a_model_without_a_scheduler(tmp_path, prompts):
    folder = build("sd1", tmp_path / "model")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(MissingInput, match="no scheduler to load") as caught:
        run_job(Job(config(folder, prompts), tmp_path / "run", choose_stages(["generate"])))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"dtype": "bfloat16"}, "for a CUDA device; use float32"),
        ({"dtype": "float16", "device": "mps"}, "for a CUDA device; use float32"),
        ({"compile": True}, "compile: for a CUDA device"),
        ({"resolution": 0}, "resolution"),
    ],
)
def test_what_needs_a_cuda_device(tmp_path, model, says):
    with pytest.raises(ConfigError, match=says):
        config(tmp_path, model=model)
    config(tmp_path, model={"dtype": "bfloat16", "compile": True, "device": "cuda:1"})


def test_a_lora_is_in_the_fingerprint_and_in_the_inputs(tmp_path):
    folder, file = build("sd1", tmp_path / "model"), tmp_path / "a.safetensors"
    file.write_bytes(b"one")
    run = tmp_path / "run"
    plain = Context(run, config(folder))
    half = Context(run, config(folder, model={"lora": f"{file}:0.5"}))
    whole = Context(run, config(folder, model={"lora": str(file)}))
    prints = [model_fingerprint(context) for context in (plain, half, whole)]
    file.write_bytes(b"other")
    prints.append(model_fingerprint(whole))
    assert len(set(prints)) == 4
    assert model_inputs(plain) == (folder.as_posix(),)
    assert model_inputs(half) == (folder.as_posix(), file.as_posix())


@pytest.mark.parametrize(
    ("name", "error"), [("nowhere.safetensors", MissingInput), ("a.bin", UnsafeWeights)]
)
def test_a_lora_that_cannot_be_read_stops_the_run_before_it_starts(tmp_path, prompts, name, error):
    (tmp_path / "a.bin").write_bytes(b"\x80")
    folder = build("sd1", tmp_path / "model")
    with pytest.raises(error, match=r"model\.lora"):
        audit(config(folder, prompts, model={"lora": str(tmp_path / name)}), tmp_path / "run")


@pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
def test_an_adapted_model_is_the_one_that_is_audited(tmp_path, prompts):
    from generation.test_lora import LAYER, write_lora

    folder = build("sd1", tmp_path / "model")
    layer = load_model(folder).unet.get_submodule(LAYER)
    write_lora(tmp_path / "a.safetensors", {"unet": {LAYER: layer}})
    plain, adapted = (
        config(folder, prompts),
        config(folder, prompts, model={"lora": f"{tmp_path / 'a.safetensors'}:3"}),
    )
    assert not audit(plain, tmp_path / "plain").failed
    assert not audit(adapted, tmp_path / "adapted").failed
    scores = [rows(tmp_path / name / "screen.parquet") for name in ("plain", "adapted")]
    assert scores[0][0]["eps_text_sq"] != pytest.approx(scores[1][0]["eps_text_sq"], rel=1e-6)
