"""Erased Stable Diffusion: what the edited model is taught to predict.

With a frozen model ε*, a caption c and the empty prompt ∅, a model whose samples follow
P(x) / P(c | x)^η has the noise prediction

    T(x_t, c, t) = ε*(x_t, ∅, t) - η [ε*(x_t, c, t) - ε*(x_t, ∅, t)]

(Gandikota et al. 2023, equation 6), and the edited model is regressed on it under c. η = 0 makes
the caption mean nothing, η > 0 turns it around, and η = -1 is the frozen model itself, which is
what a retain loss asks for. Tools that write the target as ε*(c) - k [ε*(c) - ε*(∅)] mean
η = k - 1.
"""

import torch


def esd_target(unconditional: torch.Tensor, conditional: torch.Tensor, eta: float) -> torch.Tensor:
    """T of equal-shaped noise predictions ε*(∅) and ε*(c)."""
    return unconditional - eta * (conditional - unconditional)
