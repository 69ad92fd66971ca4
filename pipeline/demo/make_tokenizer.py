"""Make the demo's CLIP vocabulary from the captions: `python -m pipeline.demo.make_tokenizer`.

Kept for provenance: the result is in assets/tokenizer. Byte-pair encoding (Sennrich, Haddow, Birch
2016, algorithm 1): merge the most frequent pair of neighbouring symbols, ties by their spelling,
until the vocabulary is full. Written out here since the `tokenizers` trainer breaks ties at random.
"""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from pipeline.demo.plant import rewordings
from pipeline.demo.shards import read_shards

ASSETS = Path(__file__).parent / "assets"
VOCABULARY = 2000
LENGTH = 16
END_OF_WORD = "</w>"

Word = tuple[str, ...]
Pair = tuple[str, str]


def main() -> None:
    """Train on every caption and its rewordings, and write assets/tokenizer."""
    captions = [row.caption for row in read_shards(ASSETS / "pictures").values()]
    text = [variant for caption in captions for variant in rewordings(caption)]
    words = Counter(w for line in text for w in re.findall(r"'s|[a-z]+|[^\sa-z]+", line))
    alphabet = sorted(ByteLevel.alphabet())
    symbols = alphabet + [s + END_OF_WORD for s in alphabet]
    merges = byte_pair_merges(words, count=VOCABULARY - len(symbols) - 2)
    tokens = [*symbols, *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)
    folder = ASSETS / "tokenizer"
    tokenizer.save_pretrained(folder)
    # What transformers 4 reads; version 5 reads tokenizer.json.
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    lengths = Counter(len(tokenizer(caption).input_ids) for caption in text)
    print(f"{len(tokenizer)} tokens; captions by length: {sorted(lengths.items())}")


def byte_pair_merges(words: Counter[str], count: int) -> list[Pair]:
    """The first `count` merges learnt from words with their frequencies."""
    spelled: dict[Word, int] = {(*w[:-1], w[-1] + END_OF_WORD): n for w, n in words.items()}
    merges: list[Pair] = []
    while len(merges) < count:
        pairs: Counter[Pair] = Counter()
        for word, n in spelled.items():
            for pair in pairwise(word):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = {_merge(word, best): n for word, n in spelled.items()}
    return merges


def _merge(word: Word, pair: Pair) -> Word:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


if __name__ == "__main__":
    main()
