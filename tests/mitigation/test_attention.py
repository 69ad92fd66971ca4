"""Hidden tokens, against a softmax without them, head by head in float64."""

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from tiny_pipelines import build

from pipeline.errors import ModelError
from pipeline.generation.backend import Sampling, fresh_model
from pipeline.mitigation.attention import Summary, SummaryMasked, masked_attention
from pipeline.mitigation.drawing import draw_mitigated
from pipeline.mitigation.options import AttentionOptions

CAPTIONS = ["a cat", "two dogs", "a red house"]
SEEDS = [11, 2**62 + 5, 33]
HOW = Sampling(steps=3, guidance=4.0)


class Pipe:
    def __init__(self, guided):
        self.do_classifier_free_guidance = guided


def explicit(attn, hidden, text, length, first):
    """One picture's attention with only the first `length` tokens there, in float64 numpy."""
    q, k, v = (
        x.detach().double().numpy().reshape(len(x), attn.heads, -1).transpose(1, 0, 2)
        for x in (attn.to_q(hidden), attn.to_k(text[:length]), attn.to_v(text[:length]))
    )
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    logits[:, :, 0] *= first
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    mixed = weights / weights.sum(axis=-1, keepdims=True) @ v
    joined = torch.tensor(mixed.transpose(1, 0, 2).reshape(len(hidden), -1), dtype=torch.float32)
    return attn.to_out[0](joined)


@torch.no_grad()
@pytest.mark.parametrize("inner", [AttnProcessor, AttnProcessor2_0])
@pytest.mark.parametrize("end", [False, True])
def test_the_hidden_tokens_are_as_if_they_were_not_there(inner, end):
    torch.manual_seed(0)
    attn = Attention(query_dim=12, cross_attention_dim=10, heads=3, dim_head=4).eval()
    hidden, text, lengths = torch.randn(8, 5, 12), torch.randn(8, 9, 10), [4, 9]
    summary = Summary(torch.tensor(lengths), 9, AttentionOptions(first=1.6, end=end))
    attn.set_processor(SummaryMasked(inner(), summary, Pipe(guided=True)))
    changed = attn(hidden, text)
    for row in range(8):  # four without captions, then two pictures a caption
        length, first = (9, 1.0) if row < 4 else (lengths[(row - 4) // 2] - end, 1.6)
        expected = explicit(attn, hidden[row], text[row], length, first)
        assert torch.allclose(changed[row], expected, atol=1e-5), row
    attn.set_processor(SummaryMasked(inner(), summary, Pipe(guided=False)))
    alone = attn(hidden[4:], text[4:])
    assert torch.allclose(alone, changed[4:], atol=1e-5)


@torch.no_grad()
def test_a_mask_of_the_network_is_kept():
    torch.manual_seed(0)
    attn = Attention(query_dim=12, cross_attention_dim=10, heads=3, dim_head=4).eval()
    hidden, text = torch.randn(1, 5, 12), torch.randn(1, 9, 10)
    summary = Summary(torch.tensor([6]), 9, AttentionOptions(first=1))
    attn.set_processor(SummaryMasked(AttnProcessor2_0(), summary, Pipe(guided=False)))
    own = torch.zeros(1, 1, 9)
    own[..., 4:] = -10000.0
    assert torch.allclose(
        attn(hidden, text, own)[0], explicit(attn, hidden[0], text[0], 4, 1), atol=1e-5
    )


def test_nothing_hidden_is_a_plain_drawing(model):
    long = "abcdefghijklmnopqrstuvwxyz"  # fills all 24 tokens
    options = AttentionOptions(first=1.0)
    plain = model.draw([long] * 3, SEEDS, HOW)
    drawn = draw_mitigated(model, [long] * 3, SEEDS, HOW, options)
    assert np.abs(plain.astype(int) - drawn).max() <= 1


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_the_states_of_hidden_tokens_do_not_matter(kind, tmp_path):
    """States after the caption are replaced: the mitigated drawing is the same, a plain one not."""
    model = fresh_model(build(kind, tmp_path / kind))
    before = dict(model.pipe.unet.attn_processors)
    text = model.conditions(CAPTIONS, guidance=HOW.guidance)
    states = text.tensor("text").clone()
    for row, caption in enumerate(CAPTIONS):
        states[row, len(caption.replace(" ", "")) + 2 :] = 7.0  # one token a letter
    other = type(text)({**text.tensors, "text": states})
    with masked_attention(model, CAPTIONS, AttentionOptions(first=1.1)):
        drawn = [model.draw(given, SEEDS, HOW) for given in (text, other)]
    assert np.array_equal(*drawn)
    assert model.pipe.unet.attn_processors == before
    plain = [model.draw(given, SEEDS, HOW) for given in (text, other)]
    assert not np.array_equal(*plain) and not np.array_equal(plain[0], drawn[0])


def test_what_cannot_be_masked_says_so(model, tmp_path):
    with pytest.raises(ModelError, match="cannot be masked"):
        draw_mitigated(
            fresh_model(build("sd3", tmp_path / "sd3")), CAPTIONS, SEEDS, HOW, AttentionOptions()
        )
    masked = masked_attention(model, CAPTIONS, AttentionOptions())
    with masked, pytest.raises(ModelError, match="a batch of 4"):
        model.draw(CAPTIONS[:2], SEEDS[:2], HOW)
    assert not any(isinstance(p, SummaryMasked) for p in model.pipe.unet.attn_processors.values())
