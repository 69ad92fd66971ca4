import hashlib
import unicodedata

import numpy as np
import pytest
import torch

from pipeline.generation.seeds import gaussian, hash63, image_seed, normalize_caption, prompt_id


def by_hand(text):
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**63


def test_hashes_are_blake2b_of_the_joined_parts():
    assert hash63("a", 1, "b") == by_hand("a\x001\x00b")
    assert hash63("\udc80") == by_hand("\udc80")


def test_these_ids_never_change():
    """Receipts, reports and users' scripts hold them."""
    assert prompt_id("a cat") == 796145967755716205
    assert image_seed(0, 1, 2) == 6471907556288714682


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


def test_seeds_differ_by_run_prompt_and_number():
    seeds = {image_seed(r, p, n) for r in range(3) for p in range(3) for n in range(3)}
    assert len(seeds) == 27
    assert len({seed % 2**32 for seed in seeds}) == 27  # torch's CPU generator reads 32 bits


def test_noise_is_unit_gaussian_and_each_seed_s_own():
    noise = gaussian((4, 32, 32), [1, 2, 3])
    assert (noise.shape, noise.dtype) == ((3, 4, 32, 32), torch.float32)
    assert torch.equal(gaussian((4, 32, 32), [3, 1]), noise[[2, 0]])
    assert not torch.equal(noise[0], noise[1])
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)


def test_noise_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    gaussian((2,), [5])
    assert torch.equal(torch.rand(1), expected)
