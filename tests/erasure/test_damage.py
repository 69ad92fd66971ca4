import numpy as np
import pytest

from pipeline.detection.bootstrap import Estimate
from pipeline.detection.kid import Distance
from pipeline.erasure.damage import (
    BEYOND,
    UNKNOWN,
    WITHIN,
    Collateral,
    Limits,
    Loss,
    damages,
    kid_status,
    loss_status,
)

LIMITS = Limits(max_drift_ratio=1.0, max_lost=0.1, max_loss_change=0.05)


def _ratio(low, high, n=24):
    return Estimate((low + high) / 2, n, (low, high))


def _loss(low, high, subset="control"):
    return Collateral(loss={subset: Loss(_ratio(low, high), ())})


def _kid(low, high, *, floor=(-0.01, 0.01), arm="control"):
    interval = None if low is None else (low, high)
    return Collateral(kid={arm: Distance(Estimate(0.02, 24, interval), 144, floor)})


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({}, None),
        ({"drift_ratio": 1.0}, None),
        ({"drift_ratio": 1.01}, "1.01 of the difference"),
        ({"fall": (0.09, 0.4)}, None),
        ({"fall": (0.11, 0.4)}, "11% of the drawings or more"),
        ({"collateral": _loss(1.02, 1.2)}, None),  # maybe more than the margin, maybe not
        ({"collateral": _loss(0.8, 0.9)}, None),
        ({"collateral": _loss(1.06, 1.2)}, "rose by 6.0% or more"),
        ({"collateral": _loss(1.5, 2.0, "kept")}, None),
        ({"collateral": _loss(1.5, 2.0, "target")}, None),
        ({"collateral": _kid(0.005, 0.3)}, None),
        ({"collateral": _kid(0.011, 0.3)}, "KID is 0.0110 or more at 95 %, the floor 0.0100"),
        ({"collateral": _kid(-0.01, 0.3, floor=(-0.03, -0.02))}, None),  # not above 0
        ({"collateral": _kid(0.1, 0.3, floor=None)}, None),
        ({"collateral": _kid(None, None)}, None),
        ({"collateral": _kid(0.1, 0.3, arm="kept")}, None),
    ],
)
def test_each_rule(measured, words):
    found = damages(LIMITS, **measured)
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_every_broken_rule_is_named():
    both = Collateral(loss=_loss(1.1, 1.2).loss, kid=_kid(0.1, 0.2).kid)
    found = damages(LIMITS, drift_ratio=2.0, fall=(0.5, 0.6), collateral=both)
    assert len(found) == 4 and len(set(found)) == 4


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [(1.0, 1.05, WITHIN), (0.9, 1.04, WITHIN), (1.0, 1.2, UNKNOWN), (1.051, 1.2, BEYOND)],
)
def test_a_margin_is_kept_broken_or_neither(low, high, status):
    assert loss_status(_ratio(low, high), 0.05) == status


def test_too_few_cannot_tell():
    assert loss_status(Estimate(3.0, 2, None), 0.05) == UNKNOWN
    few = Distance(Estimate(3.0, 2, None), 4, None)
    assert kid_status(few) == UNKNOWN
    assert damages(LIMITS, collateral=Collateral(kid={"control": few})) == []


def test_status_of_a_distance():
    assert kid_status(_kid(0.02, 0.03).kid["control"]) == BEYOND
    assert kid_status(_kid(-0.02, 0.01).kid["control"]) == WITHIN
    assert kid_status(_kid(-0.02, np.nextafter(0.01, 1)).kid["control"]) == UNKNOWN
