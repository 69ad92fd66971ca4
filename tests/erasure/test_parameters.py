import pytest
import torch

from pipeline.erasure.parameters import Teacher, select_parameters, trainable
from pipeline.errors import ConfigError, ModelError

_BLOCKS = ("down_blocks.0.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0")
_BLOCKS = (*_BLOCKS, "up_blocks.0.attentions.1")
_CROSS = [f"{block}.transformer_blocks.0.attn2" for block in _BLOCKS]
_KEYS_AND_VALUES = {f"{name}.{part}.weight" for name in _CROSS for part in ("to_k", "to_v")}
_QUERIES_AND_OUTPUTS = {
    f"{name}.{part}"
    for name in _CROSS
    for part in ("to_q.weight", "to_out.0.weight", "to_out.0.bias")
}


def test_groups_are_exactly_the_named_tensors(model):
    every = set(dict(model.unet.named_parameters()))
    cross = _KEYS_AND_VALUES | _QUERIES_AND_OUTPUTS
    assert set(select_parameters(model.unet, "x")) == cross
    assert set(select_parameters(model.unet, "x-strict")) == _KEYS_AND_VALUES
    assert set(select_parameters(model.unet, "u")) == every - cross
    assert set(select_parameters(model.unet, "full")) == every


def test_an_empty_group_is_an_error():
    with pytest.raises(ModelError, match="no parameter in group 'x'"):
        select_parameters(torch.nn.Linear(2, 2), "x")


def test_an_unknown_group_is_an_error(model):
    with pytest.raises(ConfigError, match="xattn"):
        select_parameters(model.unet, "xattn")


def test_the_teacher_is_the_model_before_training_and_leaves_the_student_alone():
    layer = torch.nn.Linear(3, 3)
    x = torch.ones(1, 3)
    before = layer(x).detach()
    teacher = Teacher(dict(layer.named_parameters()))
    with torch.no_grad():
        layer.weight.add_(1.0)
    student = layer(x).detach()
    with teacher.in_place():
        taught = layer(x)
    assert torch.equal(taught, before)
    assert not taught.requires_grad
    assert torch.equal(layer(x), student)
    assert not torch.equal(student, before)


def test_the_student_comes_back_when_the_teacher_fails():
    layer = torch.nn.Linear(1, 1)
    teacher = Teacher(dict(layer.named_parameters()))
    with torch.no_grad():
        layer.weight.fill_(5.0)
    with pytest.raises(ZeroDivisionError), teacher.in_place():
        _ = 1 / 0
    assert layer.weight.item() == 5.0


def test_only_the_chosen_take_gradients_and_flags_come_back():
    layer = torch.nn.Linear(2, 2)
    with trainable(layer, {"bias": layer.bias}):
        layer(torch.ones(1, 2)).sum().backward()
        assert layer.weight.grad is None
        assert layer.bias.grad is not None
    assert layer.weight.requires_grad
    assert layer.bias.grad is None
