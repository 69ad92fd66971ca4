"""How alike the predictions of several seeds are (NeMo: Hintersdorf et al. 2024, NeurIPS).

    r_i    = eps(x_i, c) - x_i at the second timestep, on the first noise x_i of seed i; each
             channel brought to [0, 1] by its smallest and largest value
    score  = the largest MS-SSIM(r_i, r_j) over pairs of seeds

A memorized caption pushes every noise the same way. Published with ten seeds, a Gaussian of 11
pixels (sigma 1.5) and three scales of weight 0.33 on latents of 64 x 64; memorized above 0.428
there. Smaller latents hold less: the scales are the largest number, at most three, whose coarsest
is 8 pixels a side or more; the window is the largest odd one, at most 11, below that side; weights
sum to 0.99. At 64 x 64 and above that is the published measure; below, 0.428 means nothing.
"""

from itertools import combinations

import torch

from pipeline.detection.errors import MeasureError

SCALES, WINDOW, SIGMA = 3, 11, 1.5
_WEIGHT = 0.99
_COARSEST = 8


def seed_agreement(residuals: torch.Tensor) -> float:
    """The score of one caption's residuals (seeds, c, h, w).

    Raises MeasureError below two seeds, below 4 pixels a side, and on values not finite.
    """
    if residuals.ndim != 4 or len(residuals) < 2 or min(residuals.shape[2:]) < 4:
        shape = tuple(residuals.shape)
        raise MeasureError(f"residuals: expected two seeds of 4 x 4 pixels at least, got {shape}")
    if not bool(residuals.isfinite().all()):
        raise MeasureError("residuals: expected finite values")
    # imported where used: it takes seconds
    from torchmetrics.functional.image import (  # noqa: PLC0415
        multiscale_structural_similarity_index_measure as ms_ssim,
    )

    unit = _unit_range(residuals.cpu().float())
    scales, window = layout(min(residuals.shape[2:]))
    a, b = zip(*combinations(range(len(unit)), 2), strict=True)
    similarity = ms_ssim(
        unit[list(a)],
        unit[list(b)],
        gaussian_kernel=True,
        sigma=SIGMA * window / WINDOW,
        kernel_size=window,
        betas=(_WEIGHT / scales,) * scales,
        data_range=1.0,
        reduction="none",
    )
    return float(similarity.max())


def layout(side: int) -> tuple[int, int]:
    """The number of scales and the side of the window for latents of so many pixels a side."""
    scales = next(s for s in range(SCALES, 0, -1) if side >> (s - 1) >= _COARSEST or s == 1)
    coarsest = side >> (scales - 1)
    return scales, min(WINDOW, coarsest - 1 if coarsest % 2 == 0 else coarsest - 2)


def _unit_range(values: torch.Tensor) -> torch.Tensor:
    low = values.amin(dim=(2, 3), keepdim=True)
    spread = values.amax(dim=(2, 3), keepdim=True) - low
    return (values - low) / spread.clamp_min(torch.finfo(values.dtype).tiny)
