"""Seeds as hashes, so that no picture depends on counters, order or batches."""

from collections.abc import Sequence

import torch

from pipeline.ids import hash63

__all__ = ["gaussian", "hash63", "image_seed"]


def image_seed(run_seed: int, prompt: int, number: int) -> int:
    """Seed of the `number`-th generation of a prompt, the same in any batch and on any worker."""
    return hash63("seed", run_seed, prompt, number)


def gaussian(shape: tuple[int, ...], seeds: Sequence[int]) -> torch.Tensor:
    """Unit Gaussian noise of (len(seeds), *shape) in fp32, one CPU generator a seed."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
