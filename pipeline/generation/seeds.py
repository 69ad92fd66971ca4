"""Seeds and ids as hashes, so that nothing depends on counters, order or batches."""

import hashlib
import unicodedata
from collections.abc import Sequence

import torch

_MASK_63 = (1 << 63) - 1


def hash63(*parts: object) -> int:
    """63-bit BLAKE2b of the parts joined by NUL."""
    text = "\0".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") & _MASK_63


def normalize_caption(caption: str) -> str:
    """NFC, so that the same letters typed in two ways are one caption."""
    return unicodedata.normalize("NFC", caption).strip()


def prompt_id(caption: str) -> int:
    """Id of a caption: the hash of its NFC form."""
    return hash63("prompt", normalize_caption(caption))


def image_seed(run_seed: int, prompt: int, number: int) -> int:
    """Seed of the `number`-th generation of a prompt, the same in any batch and on any worker."""
    return hash63("seed", run_seed, prompt, number)


def gaussian(shape: tuple[int, ...], seeds: Sequence[int]) -> torch.Tensor:
    """Unit Gaussian noise of (len(seeds), *shape) in fp32, one CPU generator a seed."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
