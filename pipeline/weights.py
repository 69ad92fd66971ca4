"""Weights of any network, looked at before they are trusted."""

import torch

from pipeline.errors import ModelError, NonFiniteWeights


def require_finite(module: torch.nn.Module, where: str) -> None:
    """Raise NonFiniteWeights naming the first parameter that holds NaN or infinity.

    Raises ModelError for one without a value, as diffusers leaves those that the files lack.
    """
    for name, tensor in module.state_dict().items():
        if tensor.is_meta:
            raise ModelError(f"{where}: {name} is not in the weights; fetch it again")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteWeights(f"{where}: {name} holds NaN or infinity; fetch it again")
