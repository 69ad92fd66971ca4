"""The Gram matrix of two noise predictions, and what is read off it.

With u = eps(x_t, no text) and c = eps(x_t, caption), both of `dim` numbers, and D = c - u:

    Wen et al. 2024 (ICLR):       |D|,            |D|^2    = |u|^2 + |c|^2 - 2<u, c>
    Webster 2023 (white box):     mean((u + g D)^2),  g = 7.5; his score is sigma_max^2 times this
    Asthana et al. 2026 (ICLR):   mean over positions of cos(u, D) over the channels

The first two follow from |u|^2, |c|^2 and <u, c>; the third is stored beside them. So a pass over a
model is made once and every detector (gram_detectors.py) is read off later.
|D|^2 is often 1e-4 of |u|^2: the scalars are summed, and must be stored, in float64.

Webster's score is his code's mean((z0 - latents)^2) after one Heun step from sigma_max to 0, whose
last step is Euler's: z0 - latents = sigma_max (u + 7.5 D). The factor sigma_max^2 is one number
a noise schedule, so no ranking and no threshold fitted on a model depends on it.
"""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.detection.errors import MeasureError

if TYPE_CHECKING:  # a report reads scores without loading torch
    import torch

GUIDANCE = 7.5
_SMALLEST = 1e-300

Column = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gram:
    """The scalars of n scored steps, each (n,): the Gram matrix of (u, c) and the mean cosine."""

    dim: npt.NDArray[np.int64]
    eps_uncond_sq: Column
    eps_text_sq: Column
    eps_dot: Column
    cos_channel_mean: Column

    def __post_init__(self) -> None:
        if len({np.shape(getattr(self, field.name)) for field in fields(self)}) != 1:
            raise MeasureError("gram: expected columns of one length")
        if not all(np.isfinite(getattr(self, field.name)).all() for field in fields(self)):
            raise MeasureError("gram: a noise prediction is not finite")


def gram(eps_uncond: "torch.Tensor", eps_text: "torch.Tensor") -> Gram:
    """The scalars of noise predictions (n, c, h, w), of any floating dtype and device.

    Raises MeasureError on shapes that differ or values not finite.
    """
    if eps_uncond.ndim != 4 or eps_uncond.shape != eps_text.shape:
        shapes = f"{tuple(eps_uncond.shape)} and {tuple(eps_text.shape)}"
        raise MeasureError(f"gram: expected two tensors (n, c, h, w), got {shapes}")
    # By way of the CPU: not every device has float64.
    uncond = eps_uncond.detach().cpu().double()
    text = eps_text.detach().cpu().double()
    gap = text - uncond
    norms = (uncond.norm(dim=1) * gap.norm(dim=1)).clamp_min(_SMALLEST)  # no gap: a cosine of 0
    cosine = (uncond * gap).sum(dim=1) / norms
    return Gram(
        dim=np.full(len(uncond), math.prod(uncond.shape[1:]), np.int64),
        eps_uncond_sq=_inner(uncond, uncond),
        eps_text_sq=_inner(text, text),
        eps_dot=_inner(uncond, text),
        cos_channel_mean=cosine.flatten(1).mean(dim=1).numpy(),
    )


def _inner(a: "torch.Tensor", b: "torch.Tensor") -> Column:
    return (a * b).flatten(1).sum(dim=1).numpy()


def gap_norm(scalars: Gram) -> Column:
    """Wen's |D|, (n,)."""
    squared = scalars.eps_uncond_sq + scalars.eps_text_sq - 2 * scalars.eps_dot
    return np.sqrt(np.maximum(squared, 0))


def webster_score(scalars: Gram, *, guidance: float = GUIDANCE) -> Column:
    """Webster's mean((u + g D)^2), (n,), up to the factor sigma_max^2."""
    g = guidance
    squared = (
        (1 - g) ** 2 * scalars.eps_uncond_sq
        + g**2 * scalars.eps_text_sq
        + 2 * g * (1 - g) * scalars.eps_dot
    )
    return np.maximum(squared, 0) / scalars.dim
