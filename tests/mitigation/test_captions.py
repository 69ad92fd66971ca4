from collections import Counter

import numpy as np
import pytest
import torch
from tiny_model import tiny_tokenizer

from pipeline.errors import ConfigError, ModelError
from pipeline.generation.conditions import Conditions
from pipeline.mitigation.captions import changed, noisy, vocabulary, words_of

CAPTION = "a black cat on a sofa"
OWN = CAPTION.split()
WORDS = ["tree", "sky"]


def runs(change, count, words=()):
    return [changed(CAPTION, change, count, seed, words).split() for seed in range(200)]


def is_subsequence(short, long):
    rest = iter(long)
    return all(word in rest for word in short)


def test_replacing_changes_so_many_words_in_place():
    for said in runs("replace", 2, WORDS):
        differ = [(a, b) for a, b in zip(OWN, said, strict=True) if a != b]
        assert len(differ) == 2 and all(b in WORDS for _, b in differ)
    places = Counter(i for said in runs("replace", 1, WORDS) for i in range(6) if said[i] in WORDS)
    assert set(places) == set(range(6)) and max(places.values()) < 60  # 33 expected of each


def test_no_word_is_replaced_twice():
    assert set(changed(CAPTION, "replace", 99, 0, WORDS).split()) <= set(WORDS)
    assert changed("", "replace", 3, 0, WORDS) == ""


@pytest.mark.parametrize("change", ["add", "number", "repeat"])
def test_adding_keeps_the_caption_s_words_in_order(change):
    lengths, where = set(), set()
    for said in runs(change, 3, WORDS):
        assert is_subsequence(OWN, said)
        extra = Counter(said) - Counter(OWN)
        lengths.add(extra.total())
        where.add(said[0] == OWN[0])
        for word in extra:
            known = {"add": word in WORDS, "repeat": word in OWN, "number": word.isdigit()}
            assert known[change]
    assert lengths == {3} and where == {True, False}


def test_a_seed_is_a_caption():
    assert changed(CAPTION, "add", 4, 7, WORDS) == changed(CAPTION, "add", 4, 7, WORDS)
    assert len({" ".join(said) for said in runs("add", 4, WORDS)}) > 150
    assert changed("", "repeat", 4, 0) == ""


def test_without_words_it_says_so():
    with pytest.raises(ConfigError, match="needs words"):
        changed(CAPTION, "add", 1, 0)
    with pytest.raises(ConfigError, match="one of replace"):
        changed(CAPTION, "shuffle", 1, 0, WORDS)


def test_words():
    assert words_of(["a b", "b  c"]) == ["a", "b", "c"]
    letters = vocabulary(tiny_tokenizer())
    assert {"a", "z", "A"} <= set(letters) and all(word.isalpha() for word in letters)
    with pytest.raises(ModelError, match="not known"):
        vocabulary(None)


def test_noise_is_each_row_s_own_and_standard():
    states = torch.tensor(np.random.default_rng(0).normal(size=(3, 20, 50)), dtype=torch.float32)
    text = Conditions({"text": states, "pooled": states[:, 0]})
    seeds = [4, 2**62, 6]
    told = noisy(text, 0.1, seeds)
    added = told.tensor("text") - states
    assert float(added.std()) == pytest.approx(0.1, rel=0.05)
    assert float(added.mean()) == pytest.approx(0, abs=0.01)
    assert torch.equal(told.tensor("pooled"), states[:, 0])
    alone = noisy(text[1:2], 0.1, seeds[1:2]).tensor("text")
    assert torch.equal(alone[0], told.tensor("text")[1])
