import pytest
import torch

from pipeline.generation.seeds import gaussian, image_seed


def test_a_seed_never_changes():
    """Runs that go on, and users' scripts, hold it."""
    assert image_seed(0, 1, 2) == 6471907556288714682


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
