import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detection import caption_families as module
from pipeline.detection.caption_families import caption_families, words
from pipeline.detection.errors import MeasureError


def brute_force(captions, min_jaccard):
    """Labels by exact fractions over all pairs, joined until nothing changes."""
    sets = [set(re.findall(r"[a-z]+", caption)) or {caption} for caption in captions]
    labels = list(range(len(captions)))
    changed = True
    while changed:
        changed = False
        for i, a in enumerate(sets):
            for j, b in enumerate(sets):
                alike = Fraction(len(a & b), len(a | b)) >= min_jaccard
                if alike and labels[i] != labels[j]:
                    labels[i] = labels[j] = min(labels[i], labels[j])
                    changed = True
    return labels


def same_partition(a, b):
    pairs = set(zip(a, b, strict=True))
    return len(pairs) == len(set(a)) == len(set(b))


captions_of_few_words = st.lists(
    st.lists(st.sampled_from("abcdefgh"), max_size=7).map(" ".join), max_size=14
)


@given(captions_of_few_words, st.sampled_from([Fraction(1, 2), Fraction(1, 3), Fraction(3, 4), 1]))
def test_families_are_those_of_all_pairs(captions, min_jaccard):
    found = caption_families(captions, min_jaccard=float(min_jaccard)).tolist()
    assert same_partition(found, brute_force(captions, min_jaccard))


def test_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    captions = [" ".join(rng.choice(list("abcdefghijkl"), 6)) for _ in range(60)]
    whole = caption_families(captions)
    assert 1 < len(set(whole.tolist())) < 60
    monkeypatch.setattr(module, "_ROWS", 7)
    monkeypatch.setattr(module, "_PAIRS", 5)
    assert np.array_equal(caption_families(captions), whole)


def test_one_shop_is_one_family():
    captions = [
        "Anna Shaw floor rug, red", "a cat", "anna shaw FLOOR rug blue", "Anna Shaw rug, blue",
        "!!", "A CAT!", "???",
    ]  # fmt: skip
    assert caption_families(captions).tolist() == [0, 1, 0, 0, 2, 1, 3]


def test_half_of_the_words_is_enough_and_less_is_not():
    assert caption_families(["a b c", "b c d"]).tolist() == [0, 0]  # 2 of 4
    assert caption_families(["a b c", "c d"]).tolist() == [0, 1]  # 1 of 4


def test_words():
    assert words("Straße, STRASSE\n７") == {"strasse", "7"}
    assert words(" ?! ") == {" ?!"}
    assert caption_families([]).tolist() == []


@pytest.mark.parametrize("min_jaccard", [0.0, 1.1, float("nan")])
def test_refuses(min_jaccard):
    with pytest.raises(MeasureError, match="min_jaccard"):
        caption_families(["a"], min_jaccard=min_jaccard)
