"""What an eraser did to the rest: four measures, a rule for each, and what makes a model damaged.

    drift     change of drawings of control captions, of the difference between two seeds of one:
              damage above `max_drift_ratio`
    fall      of the rate at which other memorized pictures are drawn (Newcombe's interval): damage
              where its lower bound is above `max_lost`
    loss      relative change of the denoising loss on control pictures, a mean over levels: damage
              where its lower bound is above the non-inferiority margin `max_loss_change`
    KID       of drawings of control captions to those before: damage where its lower bound is above
              the upper bound of the floor, and above 0

Three ask for certainty at 95 %, so that few drawings find no damage; whether they would have found
any is what the intervals are for. Of memorized pictures that were to stay neither loss nor KID
counts: they are reported, and `fall` says how many are lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.detection.bootstrap import Estimate
from pipeline.detection.kid import Distance

CONTROL = "control"
WITHIN, BEYOND, UNKNOWN = "within", "beyond", "cannot tell"


@dataclass(frozen=True)
class Limits:
    """What is not damage yet; see above."""

    max_drift_ratio: float
    max_lost: float
    max_loss_change: float


@dataclass(frozen=True)
class Level:
    """The mean loss at one time step, before and after, and their ratio; None where before is 0."""

    timestep: int
    before: float
    after: float
    ratio: Estimate | None


@dataclass(frozen=True)
class Loss:
    """Of one subset: the ratio of the losses after and before, over all levels and at each."""

    ratio: Estimate | None
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Drift:
    """Change of drawings in units of the difference between seeds, of captions so near."""

    ratio: Estimate | None
    similarity: tuple[float, float]


@dataclass(frozen=True)
class Collateral:
    """What was measured, by subset or arm, and by nearness; empty where it was not.

    `oracle`: the loss on erased pictures beside that of a model which never saw them, in the place
    of the model before. A ratio of 1 is forgotten, less still known, more a scar.
    """

    loss: Mapping[str, Loss] = field(default_factory=dict)
    kid: Mapping[str, Distance] = field(default_factory=dict)
    drift: Mapping[str, Drift] = field(default_factory=dict)
    oracle: Loss | None = None


NOT_MEASURED = Collateral()


def damages(
    limits: Limits,
    *,
    drift_ratio: float | None = None,
    fall: tuple[float, float] | None = None,
    collateral: Collateral = NOT_MEASURED,
) -> list[str]:
    """A sentence for each rule that is broken; none for a model that is not known to be damaged.

    `drift_ratio` is that of all control captions.
    """
    found = []
    if drift_ratio is not None and drift_ratio > limits.max_drift_ratio:
        found.append(
            f"drawings of control captions change by {drift_ratio:.2f} of the difference between "
            f"two seeds, {limits.max_drift_ratio:g} allowed"
        )
    if fall is not None and fall[0] > limits.max_lost:
        found.append(
            f"other memorized pictures are drawn less, by {fall[0]:.0%} of the drawings or more at "
            f"95 %, {limits.max_lost:.0%} allowed"
        )
    loss = collateral.loss.get(CONTROL)
    if loss and loss.ratio and loss_status(loss.ratio, limits.max_loss_change) == BEYOND:
        found.append(
            f"the denoising loss on control pictures rose by {_low(loss.ratio) - 1:.1%} or more at "
            f"95 %, {limits.max_loss_change:.0%} allowed"
        )
    kid = collateral.kid.get(CONTROL)
    if kid and kid.floor and kid.above:
        found.append(
            "drawings of control captions are farther from those before than two sets of seeds are "
            f"from each other: KID is {_low(kid.kid):.4f} or more at 95 %, the floor "
            f"{kid.floor[1]:.4f}"
        )
    return found


def loss_status(ratio: Estimate, max_loss_change: float) -> str:
    """Whether a rise of the loss is surely within the margin, surely beyond it, or neither."""
    if ratio.interval is None:
        return UNKNOWN
    low, high = ratio.interval
    if low > 1 + max_loss_change:
        return BEYOND
    return WITHIN if high <= 1 + max_loss_change else UNKNOWN


def kid_status(distance: Distance) -> str:
    """Whether a distance is surely within the floor, surely beyond it, or neither."""
    if distance.above:
        return BEYOND
    return WITHIN if distance.within else UNKNOWN


def _low(estimate: Estimate) -> float:
    return estimate.interval[0] if estimate.interval else estimate.value
