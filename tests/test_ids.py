import hashlib
import unicodedata

import numpy as np
import pytest

from pipeline.ids import hash63, normalize_caption, prompt_id


def by_hand(text):
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**63


def test_hashes_are_blake2b_of_the_joined_parts():
    assert hash63("a", 1, "b") == by_hand("a\x001\x00b")
    assert hash63("\udc80") == by_hand("\udc80")


def test_these_ids_never_change():
    """Receipts, reports and users' scripts hold them."""
    assert prompt_id("a cat") == 796145967755716205


def test_hashes_are_63_bits_and_spread():
    values = [hash63("seed", i) for i in range(2000)]
    assert len(set(values)) == 2000
    assert 0 <= min(values) < 2**54
    assert 2**63 - 2**54 < max(values) < 2**63
    assert np.mean([value & 1 for value in values]) == pytest.approx(0.5, abs=0.05)


def test_a_caption_typed_in_two_ways_is_one():
    composed, parted = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")
    assert composed != parted
    assert prompt_id(composed) == prompt_id(f" {parted}\n")
    assert normalize_caption(parted) == composed
    assert prompt_id("Cat") != prompt_id("cat")
