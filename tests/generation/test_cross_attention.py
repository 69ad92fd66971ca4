"""Attention read by hooks, against diffusers' own attention scores."""

import pytest
import torch
from diffusers.models.attention_processor import Attention
from tiny_model import build_tiny_pipeline

from pipeline.errors import ModelError
from pipeline.generation.backend import fresh_model
from pipeline.generation.cross_attention import attention_of, recorded_attention


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return fresh_model(build_tiny_pipeline(tmp_path_factory.mktemp("attention") / "tiny"))


class Scores:
    """A processor that keeps diffusers' softmax scores of cross-attention, by head."""

    def __init__(self):
        self.kept = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *_, **__):
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(x)
            for x in (attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        )
        scores = attn.get_attention_scores(query, key)
        if encoder_hidden_states is not None:
            self.kept.append(scores.unflatten(0, (len(hidden_states), attn.heads)).mean(dim=1))
        return attn.to_out[0](attn.batch_to_head_dim(scores @ value))


def forward(model, captions=("a cat", "two dogs", "a house")):
    x_t = model.noise(range(len(captions)))
    times = torch.full((len(captions),), 500)
    return model.predict_noise(x_t, times, model.embed_text(captions))


@torch.inference_mode()
@pytest.mark.parametrize("captions", [("a cat",), ("a cat", "two dogs", "a house")])
def test_it_is_the_attention_of_the_network(model, captions):
    marked = torch.arange(len(captions)) + 2
    with recorded_attention(model.unet, marked) as recorded:
        output = forward(model, captions)
        found = recorded.take()
        assert recorded.take() == []
    assert torch.equal(forward(model, captions), output)  # nothing is changed, no hook is left
    own, scores = model.unet.attn_processors, Scores()
    model.unet.set_attn_processor(scores)
    try:
        assert (forward(model, captions) - output).abs().max() < 1e-5
    finally:
        model.unet.set_attn_processor(own)
    assert len(found) == len(scores.kept) > 2
    for layer, expected in zip(found, scores.kept, strict=True):
        assert torch.allclose(layer.over_tokens, expected.mean(dim=1), atol=1e-6)
        assert torch.allclose(layer.over_tokens.sum(dim=1), torch.ones(len(captions)), atol=1e-5)
        for row, token in enumerate(marked):
            assert torch.allclose(layer.to_marked[row], expected[row, :, token], atol=1e-6)
    assert {layer.name.split(".")[0] for layer in found} == {
        "down_blocks", "mid_block", "up_blocks"
    }  # fmt: skip


@torch.inference_mode()
def test_rows_do_not_depend_on_their_neighbours(model):
    captions = ["a cat", "two dogs", "a house"]
    text, x_t = model.embed_text(captions), model.noise(range(3))

    def read(rows):
        with recorded_attention(model.unet, torch.full((len(x_t[rows]),), 3)) as recorded:
            model.predict_noise(x_t[rows], torch.full((len(x_t[rows]),), 500), text[rows])
            return recorded.take()

    for together, alone in zip(read(slice(0, 3)), read(slice(1, 2)), strict=True):
        assert torch.allclose(together.over_tokens[1:2], alone.over_tokens, atol=1e-6)
        assert torch.allclose(together.to_marked[1:2], alone.to_marked, atol=1e-6)


@torch.no_grad()
def test_masked_tokens_are_not_looked_at():
    layer = Attention(query_dim=8, cross_attention_dim=6, heads=2, dim_head=4)
    hidden, text = torch.randn(2, 5, 8), torch.randn(2, 7, 6)
    mask = torch.zeros(2, 1, 7)
    mask[:, :, 4:] = -10000.0
    found = attention_of(layer, hidden, text, mask)
    assert found[:, :, 4:].max() < 1e-6
    assert torch.allclose(found[:, :, :4], attention_of(layer, hidden, text[:, :4]), atol=1e-6)
    picture = hidden[:, :4].transpose(1, 2).unflatten(2, (2, 2))
    assert torch.allclose(
        attention_of(layer, picture, text), attention_of(layer, hidden[:, :4], text)
    )


def test_hooks_are_gone_after_an_error(model):
    with pytest.raises(RuntimeError, match="stop"), recorded_attention(model.unet, torch.zeros(1)):
        raise RuntimeError("stop")
    assert not any(module._forward_pre_hooks for module in model.unet.modules())


def test_networks_that_it_cannot_read():
    with (
        pytest.raises(ModelError, match="no cross-attention"),
        recorded_attention(torch.nn.Linear(2, 2), torch.zeros(1)),
    ):
        pass
    joint = torch.nn.ModuleList([Attention(8, cross_attention_dim=6, added_kv_proj_dim=6)])
    normed = torch.nn.ModuleList([Attention(8, cross_attention_dim=6, qk_norm="layer_norm")])
    for network in (joint, normed):
        with (
            pytest.raises(ModelError, match="cannot be read"),
            recorded_attention(network, torch.zeros(1)),
        ):
            pass
