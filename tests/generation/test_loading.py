import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import build_tiny_pipeline

from pipeline.errors import (
    MissingInput,
    ModelError,
    NonFiniteWeights,
    RemoteCodeRefused,
    UnsafeWeights,
)
from pipeline.generation.loading import check_folder, load_pipeline, resolve_model

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return build_tiny_pipeline(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "tiny")


def load(folder):
    return load_pipeline(folder, device="cpu", dtype=torch.float32)


def refused(error, message, folder):
    with pytest.raises(error, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def edit_json(path, **changes):
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: v for name, v in value.items() if v is not ...}))


def edit_weights(path, change):
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def test_a_sound_folder_loads_with_its_own_weights(folder):
    pipe = load(folder)
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    saved = load_file(folder / UNET)
    assert all(torch.equal(value, saved[name]) for name, value in pipe.unet.state_dict().items())
    text = load_file(folder / TEXT)
    for name, value in pipe.text_encoder.state_dict().items():
        stored = next(tensor for key, tensor in text.items() if key.endswith(name))
        assert torch.equal(value, stored)
    assert not pipe.unet.training
    assert not pipe.text_encoder.training


def test_the_dtype_is_that_asked_for(folder):
    pipe = load_pipeline(folder, device="cpu", dtype=torch.bfloat16)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}


# Code.


@pytest.mark.parametrize("place", ["pipeline.py", "unet/my_unet.py", "a/b/c.PY"])
def test_a_folder_with_code(folder, place):
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"open({str(folder / 'ran')!r}, 'w')")
    refused(RemoteCodeRefused, f"holds code .{path.name}.; only weights are loaded", folder)
    assert not (folder / "ran").exists()


def test_code_behind_a_link(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "code.py").write_text("")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    refused(RemoteCodeRefused, r"holds code .code\.py", folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "EvilPipeline"}, "'EvilPipeline' is not a pipeline of diffusers"),
        ({"_class_name": ["evil", "EvilPipeline"]}, "is not a pipeline of diffusers"),
        ({"_class_name": ...}, "None is not a pipeline"),
        ({"unet": ["evil_module", "Unet"]}, "unet comes from 'evil_module', not from diffusers"),
        ({"extra": ["os", "system"]}, "extra comes from 'os'"),
        ({"unet": [["diffusers"], "Unet"]}, "'unet' is not a component"),
        ({"unet": ["diffusers"]}, "unet comes from 'diffusers'"),
        ({"../unet": ["diffusers", "UNet2DConditionModel"]}, "'../unet' is not a component"),
    ],
)
def test_classes_that_are_not_the_libraries_own(folder, changes, message):
    edit_json(folder / "model_index.json", **changes)
    refused(RemoteCodeRefused, message, folder)


def test_a_component_that_names_code_to_fetch(folder):
    edit_json(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "evil/repo--m.Model"})
    refused(RemoteCodeRefused, "auto_map names code", folder)


def test_refusal_comes_before_any_library_sees_the_folder(folder, monkeypatch):
    import diffusers

    monkeypatch.setattr(
        diffusers.DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded")
    )
    (folder / "x.py").write_text("")
    refused(RemoteCodeRefused, "holds code", folder)


# Weights.


@pytest.mark.parametrize("suffix", ["bin", "pt", "ckpt"])
def test_a_component_with_pickles_only(folder, suffix):
    (folder / UNET).unlink()
    torch.save({}, folder / "unet" / f"diffusion_pytorch_model.{suffix}")
    refused(UnsafeWeights, "unet: only pickled weights; convert them to safetensors", folder)


def test_a_pickle_beside_safetensors_is_not_read(folder):
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not even a pickle")
    load(folder)


def test_the_safety_checker_s_pickle_is_no_matter(folder):
    """It is not loaded, so it cannot keep the rest from being."""
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "pytorch_model.bin").write_bytes(b"")
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    edit_json(folder / "model_index.json", safety_checker=checker)
    assert load(folder).safety_checker is None


@pytest.mark.parametrize(("file", "name"), [(UNET, "unet"), (TEXT, "text_encoder")])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(folder, file, name, value):
    def spoil(state):
        state[sorted(state)[-1]].view(-1)[0] = value

    edit_weights(folder / file, spoil)
    refused(NonFiniteWeights, rf"{name}: \S+ holds NaN or infinity", folder)


@pytest.mark.parametrize(("file", "name"), [(UNET, "unet"), (TEXT, "text_encoder")])
def test_missing_tensors_are_not_filled_at_random(folder, file, name):
    """Both libraries only warn; an audit of a partly random model would be about nothing."""
    edit_weights(folder / file, lambda state: state.pop(sorted(state)[0]))
    refused(ModelError, rf"{name}: \S+ is not in the weights", folder)


@pytest.mark.parametrize("file", [UNET, TEXT])
def test_weights_cut_short(folder, file):
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: len(data) // 2])
    refused(MissingInput, "diffusers cannot load it", folder)


def test_weights_that_are_not_there(folder):
    (folder / UNET).unlink()
    refused(MissingInput, "diffusers cannot load it", folder)


def test_weights_of_another_shape(folder):
    edit_weights(folder / UNET, lambda state: state.update({"conv_in.bias": torch.zeros(3)}))
    refused(MissingInput, "diffusers cannot load it", folder)


# Folders.


def test_a_folder_that_is_no_pipeline(tmp_path):
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    refused(MissingInput, "no model_index.json; give a diffusers pipeline folder", tmp_path)
    refused(MissingInput, "no model_index.json", tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, "\xff"])
def test_an_index_that_is_not_json(tmp_path, text):
    (tmp_path / "model_index.json").write_bytes(text.encode("latin-1"))
    refused(MissingInput, "model_index.json: not (a )?JSON", tmp_path)


def test_an_index_that_is_too_long(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"x": "y" * (1 << 20)}))
    refused(MissingInput, "larger than 1048576 bytes", tmp_path)


def test_settings_that_make_the_library_stumble(folder):
    edit_json(folder / "unet" / "config.json", block_out_channels="many", layers_per_block=None)
    refused(MissingInput, "diffusers cannot load it", folder)


def test_check_folder_reads_no_weights(folder):
    (folder / UNET).write_bytes(b"")
    check_folder(folder)


# Names.


def test_a_folder_resolves_to_itself(folder, monkeypatch):
    assert resolve_model(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert resolve_model("tiny").resolve() == folder


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "model", "a/b/c", "../x/y"])
def test_names_that_are_no_hub_id_are_never_asked_for(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it would now fail
    with pytest.raises(MissingInput, match="no such model folder"):
        resolve_model(name)


def test_a_hub_id_is_fetched_pinned_and_without_code(monkeypatch, tmp_path):
    import huggingface_hub

    asked = {}

    def snapshot(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve_model("someone/model", revision="abc") == tmp_path
    assert (asked["name"], asked["revision"]) == ("someone/model", "abc")
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in asked["allow_patterns"])


@pytest.mark.parametrize("message", ["offline\nand much more", ""])
def test_a_hub_that_cannot_be_reached(monkeypatch, message):
    import huggingface_hub

    def unreachable(*_, **__):
        raise OSError(message)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(MissingInput, match="not a folder, nor to be had") as caught:
        resolve_model("someone/model")
    assert "\n" not in str(caught.value)
