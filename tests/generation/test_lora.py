import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file
from tiny_pipelines import build

from pipeline.errors import MissingInput, ModelError, UnsafeWeights, UsageError
from pipeline.generation.backend import Sampling, fresh_model
from pipeline.generation.lora import Lora, parse_lora

needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
RANK, ALPHA = 2, 6.0
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def write_lora(path, networks, seed=0, spoil=None):
    """A LoRA of the named layers of `networks`, in the form that diffusers saves."""
    generator = torch.Generator().manual_seed(seed)
    tensors, config = {}, {}
    for prefix, layers in networks.items():
        for name, layer in layers.items():
            rows, columns = layer.weight.shape
            for side, shape in (("A", (RANK, columns)), ("B", (rows, RANK))):
                values = torch.randn(shape, generator=generator)
                tensors[f"{prefix}.{name}.lora_{side}.weight"] = values
        config |= {f"{prefix}.r": RANK, f"{prefix}.lora_alpha": ALPHA}
        config |= {f"{prefix}.target_modules": sorted(layers)}
    if spoil:
        spoil(tensors)
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
    save_file(tensors, path, metadata=metadata)
    return tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build("sd1", tmp_path_factory.mktemp("lora") / "tiny")


@pytest.fixture
def layers(folder):
    model = fresh_model(folder)
    return {"unet": {LAYER: model.unet.get_submodule(LAYER)}}


# What is named.


def test_a_file_with_and_without_a_scale(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"")
    assert parse_lora(str(path)) == Lora(path, 1.0)
    assert parse_lora(f"{path}:0.5") == Lora(path, 0.5)
    assert parse_lora(f"{path}:-1") == Lora(path, -1.0)


def test_a_name_with_a_colon(tmp_path):
    path = tmp_path / "a:2.safetensors"
    path.write_bytes(b"")
    assert parse_lora(str(path)) == Lora(path, 1.0)
    assert parse_lora(f"{path}:3") == Lora(path, 3.0)


def test_a_folder_holds_one_file_or_the_standard_one(tmp_path):
    one = tmp_path / "a.safetensors"
    one.write_bytes(b"")
    assert parse_lora(str(tmp_path)) == Lora(one)
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="holds 2 files; name one of them"):
        parse_lora(str(tmp_path))
    standard = tmp_path / "pytorch_lora_weights.safetensors"
    standard.write_bytes(b"")
    assert parse_lora(f"{tmp_path}:0.7") == Lora(standard, 0.7)


@pytest.mark.parametrize("scale", ["big", "", "nan", "inf", "1e9"])
def test_a_scale_that_is_none(tmp_path, scale):
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="scale") as caught:
        parse_lora(f"{tmp_path}/a.safetensors:{scale}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.ckpt", "a.txt"])
def test_a_pickle_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(UnsafeWeights, match="only safetensors are read"):
        parse_lora(str(tmp_path / name))


def test_a_folder_of_pickles_and_an_empty_one(tmp_path):
    with pytest.raises(MissingInput, match=r"holds no \.safetensors file"):
        parse_lora(str(tmp_path))
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UnsafeWeights, match="only safetensors are read"):
        parse_lora(str(tmp_path))


def test_nothing_there(tmp_path):
    with pytest.raises(MissingInput, match="no such file or folder"):
        parse_lora(str(tmp_path / "nowhere"))
    with pytest.raises(MissingInput, match="no such file or folder"):
        parse_lora("someone/lora-on-a-hub")


# What is merged.


def test_without_peft_it_says_what_to_install(folder, layers, tmp_path, monkeypatch):
    write_lora(tmp_path / "a.safetensors", layers)
    monkeypatch.setattr("pipeline.generation.lora.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package peft; pip install") as caught:
        fresh_model(folder, lora=Lora(tmp_path / "a.safetensors"))
    assert "\n" not in str(caught.value)


@needs_peft
@pytest.mark.parametrize("scale", [1.0, 0.25, -2.0, 0.0])
def test_the_merged_weight_is_the_formula_s(folder, layers, tmp_path, scale):
    tensors = write_lora(tmp_path / "a.safetensors", layers)
    base = fresh_model(folder)
    model = fresh_model(folder, lora=Lora(tmp_path / "a.safetensors", scale))
    down, up = (tensors[f"unet.{LAYER}.lora_{side}.weight"].double() for side in "AB")
    before = base.unet.get_submodule(LAYER).weight.double()
    expected = before + scale * ALPHA / RANK * up @ down
    assert torch.allclose(model.unet.get_submodule(LAYER).weight.double(), expected, atol=1e-5)
    assert set(model.unet.state_dict()) == set(base.unet.state_dict())
    for name, tensor in base.unet.state_dict().items():
        if not name.startswith(LAYER):
            assert torch.equal(model.unet.state_dict()[name], tensor)


@needs_peft
def test_an_adapted_model_draws_something_else(folder, layers, tmp_path):
    write_lora(tmp_path / "a.safetensors", layers)
    how = Sampling(steps=3, guidance=5.0)
    plain = fresh_model(folder).draw(["a cat"], [1], how)
    none = fresh_model(folder, lora=Lora(tmp_path / "a.safetensors", 0.0))
    assert (none.draw(["a cat"], [1], how) == plain).all()
    adapted = fresh_model(folder, lora=Lora(tmp_path / "a.safetensors", 3.0))
    assert (adapted.draw(["a cat"], [1], how) != plain).any()


@needs_peft
@pytest.mark.parametrize(
    ("kind", "network", "layer"),
    [
        ("sdxl", "unet", LAYER),
        ("sd3", "transformer", "transformer_blocks.0.attn.to_k"),
        ("flux", "transformer", "transformer_blocks.0.attn.to_k"),
    ],
)
def test_other_architectures_take_theirs(tmp_path, kind, network, layer):
    folder, side = build(kind, tmp_path / kind), 16
    base = fresh_model(folder, resolution=side)
    own = base.adapter.denoiser.get_submodule(layer)
    tensors = write_lora(tmp_path / "a.safetensors", {network: {layer: own}})
    model = fresh_model(folder, resolution=side, lora=Lora(tmp_path / "a.safetensors", 0.5))
    down, up = (tensors[f"{network}.{layer}.lora_{s}.weight"] for s in "AB")
    merged = model.adapter.denoiser.get_submodule(layer).weight
    assert torch.allclose(merged, own.weight + 0.5 * ALPHA / RANK * up @ down, atol=1e-4)


@needs_peft
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", "holds NaN or infinity"),
        ("shape", "not a LoRA of this model"),
        ("names", "not a LoRA of this model"),
        ("layer", "not a LoRA of this model|adapts no weight"),
        ("zeros", "adapts no weight of this model"),
        ("garbage", "not a LoRA of this model"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder, layers, tmp_path, what, message):
    def spoil(tensors):
        first = sorted(tensors)[0]
        if what == "nan":
            tensors[first][0, 0] = torch.nan
        elif what == "shape":
            tensors[first] = torch.zeros(RANK, 3)
        elif what == "names":
            tensors["something.else"] = tensors.pop(first)
        elif what == "layer":
            for name in list(tensors):
                tensors[name.replace("attn2", "attn7")] = tensors.pop(name)
        elif what == "zeros":
            for tensor in tensors.values():
                tensor.zero_()

    path = tmp_path / "a.safetensors"
    write_lora(path, layers, spoil=spoil)
    if what == "garbage":
        path.write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match=message) as caught:
        fresh_model(folder, lora=Lora(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@needs_peft
def test_a_pipeline_that_takes_none(tmp_path):
    folder = build("ddpm", tmp_path / "ddpm")
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="DDPMPipeline takes none"):
        fresh_model(folder, lora=Lora(tmp_path / "a.safetensors"))
