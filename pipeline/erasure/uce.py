"""Unified concept editing (Gandikota et al. 2024): keys and values of cross-attention in one step.

Each matrix W_0 that maps text states c to keys or values is replaced by the minimiser of

    s_e Σ_i || W c_i - W_0 c*_i ||²  +  s_p Σ_j || W c_j - W_0 c_j ||²  +  λ || W - W_0 ||²

over states c_i to erase, each with the state c*_i it is to mean, and states c_j to keep:

    W = W_0 A B⁻¹,    A = λ I + s_e Σ c*_i c_iᵀ + s_p Σ c_j c_jᵀ
                      B = λ I + s_e Σ c_i  c_iᵀ + s_p Σ c_j c_jᵀ

A and B are the same for all matrices; the sums and the solution are in float64. The authors edit
one token of a concept's name; here every token of a caption is to mean what the empty prompt means
at its place, since a memorized caption has no subject that could be named.
"""

from collections.abc import Sequence

import torch

from pipeline.erasure.options import UceOptions
from pipeline.erasure.parameters import select_parameters
from pipeline.errors import ModelError
from pipeline.generation.backend import DiffusionModel

GROUP = "x-strict"


@torch.no_grad()
def edit(
    model: DiffusionModel,
    captions: Sequence[str],
    keep: Sequence[str],
    options: UceOptions,
) -> dict[str, torch.nn.Parameter]:
    """Edit `model` in place; return what changed, by name.

    Raises ModelError where there is nothing to edit, or it does not read text states.
    """
    changed = {
        name: tensor
        for name, tensor in select_parameters(model.unet, GROUP).items()
        if name.endswith(".weight")
    }
    erase = model.embed_text(list(captions))
    meant = model.embed_text([""]).expand_as(erase)
    kept = model.embed_text([*keep, ""])
    d = erase.shape[2]
    for name, tensor in changed.items():
        if tensor.ndim != 2 or tensor.shape[1] != d:
            raise ModelError(f"{name}: {tuple(tensor.shape)} reads no text states of {d}")
    erase, meant, kept = (states.reshape(-1, d) for states in (erase, meant, kept))
    factor = right_factor(erase, meant, kept, options)
    for tensor in changed.values():
        tensor.copy_((tensor.double() @ factor).to(tensor.dtype))
    return changed


def right_factor(
    erase: torch.Tensor, meant: torch.Tensor, keep: torch.Tensor, options: UceOptions
) -> torch.Tensor:
    """A B⁻¹ (d, d) in float64, of states as rows: erase and meant (n, d), keep (m, d)."""
    erase, meant, keep = erase.double(), meant.double(), keep.double()
    identity = torch.eye(erase.shape[1], dtype=torch.float64, device=erase.device)
    shared = options.ridge * identity + options.keep_scale * keep.T @ keep
    above = shared + options.erase_scale * meant.T @ erase
    below = shared + options.erase_scale * erase.T @ erase
    return torch.linalg.solve(below, above.T).T  # B is symmetric: (B⁻¹ Aᵀ)ᵀ = A B⁻¹
