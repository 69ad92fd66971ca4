"""Run an attack by its budget."""

from dataclasses import replace

from pipeline.erasure.attacks import completion, embedding, inpainting, prefix, relearning
from pipeline.erasure.attacks.budgets import (
    Budget,
    CompletionBudget,
    EmbeddingBudget,
    InpaintingBudget,
    PrefixBudget,
)
from pipeline.erasure.attacks.subject import Attempts, Subject
from pipeline.erasure.trajectories import Walk
from pipeline.generation.backend import DiffusionModel


def run_attack(
    model: DiffusionModel, subject: Subject, budget: Budget, walk: Walk, *, seed: int
) -> Attempts:
    """Attack one picture; the model is afterwards as it was.

    `walk` says how the audit draws; the budget may say otherwise. The same seed gives the same
    drawings, whatever was attacked before.
    """
    guidance = walk.guidance if budget.guidance is None else budget.guidance
    # as pipelines do: a weight of less would draw what was not asked for
    walk = replace(walk, steps=budget.steps or walk.steps, guidance=max(1.0, guidance))
    match budget:
        case EmbeddingBudget():
            return embedding.attack(model, subject, budget, walk, seed=seed)
        case PrefixBudget():
            return prefix.attack(model, subject, budget, walk, seed=seed)
        case CompletionBudget():
            return completion.attack(model, subject, budget, walk, seed=seed)
        case InpaintingBudget():
            return inpainting.attack(model, subject, budget, walk, seed=seed)
        case _:
            return relearning.attack(model, subject, budget, walk, seed=seed)
