"""The audit of an erased model."""

from pydantic import Field, field_validator

from pipeline.config.base import Count, Fraction, Section
from pipeline.erasure.attacks.budgets import Budget, label
from pipeline.mitigation import options as mitigation


class Verify(Section):
    """The second audit, with seeds and captions that the eraser did not use.

    `attacks` try to bring the erased pictures back. They are compared with `oracle`, a model that
    was trained without them, or else with `unseen_pictures` pictures of the shards `unseen`, which
    no model was trained on; `max_difference` is the margin.

    A model is damaged if control captions drift by more than `max_drift_ratio` of the difference
    between two seeds; if other memorized pictures are certainly drawn less, by more than `max_lost`
    of their drawings; if the denoising loss on control pictures certainly rose by more than the
    share `max_loss_change` (a non-inferiority margin); or if drawings of control captions are
    certainly farther from those before than two sets of seeds are from each other. The loss is
    measured on `loss_pictures` pictures of each kind; 0: not at all.

    `mitigations` are ways to draw from the model as it is, shown beside the erased ones; they are
    never "erased".
    """

    per_prompt: Count = 16
    per_other: Count = 8
    others: int = Field(24, ge=0)
    empty_prompt: int = Field(64, ge=0)
    max_rate: Fraction = 0.05
    max_drift_ratio: float = Field(1.0, gt=0)
    max_lost: Fraction = 0.1
    loss_pictures: int = Field(64, ge=0)
    max_loss_change: float = Field(0.05, ge=0)
    attacks: tuple[Budget, ...] = ()
    oracle: str | None = None
    unseen: tuple[str, ...] = ()
    unseen_pictures: Count = 32
    max_difference: Fraction = 0.05
    mitigations: tuple[mitigation.Mitigation, ...] = ()

    @field_validator("mitigations")
    @classmethod
    def _distinct_ways(
        cls, value: tuple[mitigation.Mitigation, ...]
    ) -> tuple[mitigation.Mitigation, ...]:
        labels = [mitigation.label(options) for options in value]
        if twice := sorted({name for name in labels if labels.count(name) > 1}):
            raise ValueError(f"two mitigations are called {twice[0]}; give them a name")
        if taken := sorted({"base", "oracle"} & set(labels)):
            raise ValueError(f"no mitigation is called {taken[0]}, which stands for a model")
        return value

    @field_validator("attacks")
    @classmethod
    def _distinct(cls, value: tuple[Budget, ...]) -> tuple[Budget, ...]:
        labels = [label(budget) for budget in value]
        if twice := sorted({name for name in labels if labels.count(name) > 1}):
            raise ValueError(f"two attacks are called {twice[0]}; give them a name")
        if "none" in labels:
            raise ValueError("no attack is called none, which stands for plain drawings")
        return value
