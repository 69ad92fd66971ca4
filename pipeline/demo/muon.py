"""Muon: momentum, made orthogonal (Jordan et al. 2024, "Muon: an optimizer for hidden layers").

For a weight W, seen as an (m, n) matrix, with gradient G:

    M <- mu M + (1 - mu) G,    U = mu M + (1 - mu) G                       (Nesterov momentum)
    W <- W - lr sqrt(max(1, m / n)) orthogonal(U)

orthogonal(U) = (U U')^(-1/2) U is approximated by five steps of the quintic Newton-Schulz iteration
X <- a X + b (X X') X + c (X X')^2 X from X = U / |U|. In about the processor time of 2,200 steps of
AdamW, 2,000 steps of Muon took the demo model's loss from 0.192 to 0.168, and the pictures that it
reproduces after 16 copies from 9 % to 77 %. torch.optim.Muon refuses convolutions; here they are
matrices of shape (out, in * height * width).
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

NOT_HIDDEN = ("embed", "conv_in", "conv_out")
QUINTIC = (3.4445, -4.7750, 2.0315)
STEPS = 5
WARM_UP = 50


def orthogonal(u: Tensor) -> Tensor:
    """(batch, m, n): every singular value moved to about one, singular vectors kept."""
    if u.size(1) > u.size(2):
        return orthogonal(u.mT).mT
    a, b, c = QUINTIC
    x = u / (u.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions. Weights of equal shape are updated as one batch."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            updates: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    update = self._momentum(weight, weight.grad, group["momentum"])
                    updates[update.shape[0], update.shape[1]].append((weight, update))
            for (m, n), pairs in updates.items():
                batch = orthogonal(torch.stack([update for _, update in pairs]))
                scale = group["lr"] * max(1, m / n) ** 0.5
                for (weight, _), update in zip(pairs, batch, strict=True):
                    weight.sub_(update.view_as(weight), alpha=scale)

    def _momentum(self, weight: nn.Parameter, grad: Tensor, mu: float) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        average = state["momentum"].lerp_(grad, 1 - mu)
        return torch.lerp(grad, average, mu).reshape(len(weight), -1)


def muon_and_adamw(
    model: nn.Module, muon_rate: float, adamw_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices; AdamW for embeddings, first and last layers, norms, biases."""
    hidden = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.ndim >= 2 and not any(word in name for word in NOT_HIDDEN)
    }
    others = [weight for name, weight in model.named_parameters() if name not in hidden]
    adamw = torch.optim.AdamW(others, lr=adamw_rate, betas=(0.9, 0.99), fused=True)
    return [Muon(hidden.values(), lr=muon_rate), adamw]


def warm_cosine(
    optimizer: torch.optim.Optimizer, steps: int, floor: float = 0.0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Rates that rise for WARM_UP steps and fall along a half cosine, to a share `floor`."""

    def share(step: int) -> float:
        falling = (1 + math.cos(math.pi * step / steps)) / 2
        return min(1.0, (step + 1) / WARM_UP) * (floor + (1 - floor) * falling)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)
