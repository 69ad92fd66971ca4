"""Relearning: a few steps of fine-tuning on the picture, then drawing with seeds not used in them.

A model that has only learnt to look away needs fewer steps than one that never saw the picture
(Suriyakumar et al. 2024, "concept resurgence"). The loss is the denoising error under the caption,
with Adam on the whole UNet. The weights are put back afterwards.
"""

import numpy as np
import torch

from pipeline.erasure.attacks.budgets import RelearningBudget
from pipeline.erasure.attacks.drawing import draw_from, forwards_of
from pipeline.erasure.attacks.embedding import denoising_loss
from pipeline.erasure.attacks.subject import Attempts, Subject, seed_of
from pipeline.erasure.parameters import select_parameters, trainable
from pipeline.erasure.trajectories import Walk
from pipeline.errors import ModelError
from pipeline.generation.backend import DiffusionModel


def attack(
    model: DiffusionModel, subject: Subject, budget: RelearningBudget, walk: Walk, *, seed: int
) -> Attempts:
    """Fine-tune anew for every attempt. Raises ModelError for half-precision weights."""
    if model.unet.dtype != torch.float32:  # small steps vanish in half precision
        raise ModelError(f"relearning: weights are {model.unet.dtype}; load the model as float32")
    parameters = select_parameters(model.unet, "full")
    before = [tensor.detach().clone() for tensor in parameters.values()]
    attempts = []
    try:
        for number in range(budget.attempts):
            _put_back(parameters, before)
            attempts.append(_attempt(model, subject, budget, walk, number, seed))
    finally:
        _put_back(parameters, before)
    training = 2 * budget.iterations * budget.batch * budget.attempts
    return Attempts(
        np.stack(attempts), training + forwards_of(walk, budget.attempts * budget.draws)
    )


def _attempt(
    model: DiffusionModel,
    subject: Subject,
    budget: RelearningBudget,
    walk: Walk,
    number: int,
    seed: int,
) -> np.ndarray:
    own = torch.Generator().manual_seed(seed_of(seed, subject, "relearning", number))
    with torch.no_grad():
        x_0 = model.encode_pictures(subject.picture[None])
        text = model.embed_text([subject.caption(number)])
    parameters = select_parameters(model.unet, "full")
    optimizer = torch.optim.Adam(parameters.values(), lr=budget.learning_rate)
    with torch.enable_grad(), trainable(model.unet, parameters):
        for _ in range(budget.iterations):
            optimizer.zero_grad(set_to_none=True)
            denoising_loss(model, x_0, text, [own], budget.batch, "noise").backward()
            optimizer.step()
    seeds = [seed_of(seed, subject, "draw", number, draw) for draw in range(budget.draws)]
    return draw_from(model, text, [seeds], walk)[0]


def _put_back(parameters: dict[str, torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(parameters.values(), values, strict=True):
            tensor.copy_(value)
