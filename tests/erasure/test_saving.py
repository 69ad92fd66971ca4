import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.erasure.saving import describe, save, stamp
from pipeline.erasure.trainer import Settings, erase
from pipeline.generation.backend import Sampling, load_model

BASE = "ab" * 32
SETTINGS = Settings(iterations=2, batch=4, steps=4, learning_rate=1e-2)


@pytest.fixture
def erased(model, targets):
    report = erase(model, targets, ["a fish"], SETTINGS)
    return model, describe(targets, SETTINGS, report, base_sha256=BASE)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_plain_diffusers_draws_what_we_draw_without_any_code_of_ours(erased, tmp_path):
    model, facts = erased
    save(model, tmp_path / "erased", facts)
    script = """
import json, sys, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None)
pipe.set_progress_bar_config(disable=True)
picture = pipe(["a red hat"], generator=[torch.Generator().manual_seed(3)],
               num_inference_steps=3, guidance_scale=2.0, output_type="np").images
assert not any(name.split(".")[0] == "pipeline" for name in sys.modules)
print(json.dumps((picture * 255).round().astype(int).ravel().tolist()))
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "erased")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    picture = json.loads(run.stdout.splitlines()[-1])
    ours = model.draw(["a red hat"], [3], Sampling(steps=3, guidance=2.0))
    assert picture == ours.ravel().tolist()


def test_our_loader_takes_the_folder(erased, tmp_path):
    model, facts = erased
    save(model, tmp_path / "erased", facts)
    loaded = load_model(tmp_path / "erased")
    for name, tensor in model.unet.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], tensor)


def test_the_delta_turns_the_base_into_the_erased_model(erased, base_folder, tmp_path):
    model, facts = erased
    save(model, tmp_path / "erased", facts)
    weights = dict(load_file(base_folder / "unet/diffusion_pytorch_model.safetensors"))
    delta = load_file(tmp_path / "erased/delta.safetensors")
    assert set(delta) == {name for name in weights if ".attn2." in name}
    weights.update(delta)
    for name, tensor in model.unet.state_dict().items():
        assert torch.equal(weights[name], tensor)


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "delta.safetensors"])
def test_the_files_say_what_was_erased_from_what(erased, tmp_path, file):
    model, facts = erased
    save(model, tmp_path / "erased", facts)
    with safe_open(tmp_path / "erased" / file, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["unmemorize"]) == facts
    assert facts == json.loads((tmp_path / "erased/erasure.json").read_text())
    assert facts["base_sha256"] == BASE
    assert facts["method"] == "esd"
    assert facts["settings"]["learning_rate"] == 1e-2
    assert [target["group_id"] for target in facts["targets"]] == [7, 8]


def test_equal_models_give_equal_bytes_wherever_they_are_saved(erased, tmp_path):
    model, facts = erased
    save(model, tmp_path / "one", facts)
    save(copy.deepcopy(model), tmp_path / "two", json.loads(json.dumps(facts)))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_nothing_but_weights_is_given_away(erased, targets, base_folder, tmp_path):
    """No caption of a target, no path of this machine, no second copy of the old weights."""
    model, facts = erased
    save(model, tmp_path / "erased", facts)
    files = contents(tmp_path / "erased")
    for data in files.values():
        assert str(base_folder.parent).encode() not in data
        for target in targets:
            assert not any(caption.encode() in data for caption in target.captions)
    weights = sorted(name for name in files if name.endswith(".safetensors"))
    assert weights == [
        "delta.safetensors",
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl", ".py"))]


def test_a_stamp_keeps_the_tensors_and_aligns_them(tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = {"b": torch.arange(5.0), "a": torch.arange(6).view(2, 3)}
    save_file(tensors, path, metadata={"old": "1"})
    stamp(path, {"z": "ä", "format": "pt"})
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"z": "ä", "format": "pt"}
    for name, tensor in load_file(path).items():
        assert torch.equal(tensor, tensors[name])
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
