"""How sharp the density is where a caption pulls (Jeon et al. 2025, ICML).

    score = | (H_c - H_u) (s_c - s_u) |,      s = -eps / sigma_t,   H = ds/dx

at the first step. With D(x) = eps(x, c) - eps(x, no text) and J its Jacobian at x, that is

    (H_c - H_u) (s_c - s_u) = J D / sigma_t^2,

one Jacobian-vector product, by forward-mode differentiation. No Jacobian is formed, and rows of a
batch do not mix, as each row's D depends on its own x.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from pipeline.detection.errors import MeasureError


def sharpness(
    gap: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, sigma: torch.Tensor
) -> npt.NDArray[np.float64]:
    """The score (n,) at x (n, c, h, w), with sigma_t of each row, (n, 1, 1, 1).

    `gap` maps x to D(x), of the same shape, row by row; it is called twice. Raises MeasureError
    where D has another shape or no forward derivative, or a sigma is not positive.
    """
    if not bool((sigma > 0).all()):
        raise MeasureError("sigma: expected values > 0")
    with torch.no_grad():
        direction = gap(x)
        if direction.shape != x.shape:
            raise MeasureError(f"gap: {tuple(direction.shape)} at x {tuple(x.shape)}")
        try:
            product: torch.Tensor = torch.func.jvp(gap, (x,), (direction,))[1]
        except NotImplementedError as error:
            raise MeasureError(f"gap: no forward derivative ({str(error)[:80]})") from error
    scaled = product.cpu().double() / sigma.cpu().double().square()
    return scaled.flatten(1).norm(dim=1).numpy()
