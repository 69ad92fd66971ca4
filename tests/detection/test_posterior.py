import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta as beta_law

from pipeline.detection.errors import MeasureError
from pipeline.detection.posterior import (
    MEMORIZED,
    NONE,
    Belief,
    Reference,
    confidence,
    log_odds,
    posterior,
)

BELIEF = Belief(weights=(0.6, 0.1, 0.3), alpha=(0.5, 1.5, 5.0), beta=(20.0, 3.0, 1.2))


def by_quadrature(hits, n, belief):
    """Each kind's share integrated out numerically: no beta function of ours."""
    joint = [
        weight
        * quad(
            lambda p, a=a, b=b: (
                math.comb(n, hits) * p**hits * (1 - p) ** (n - hits) * beta_law.pdf(p, a, b)
            ),
            0,
            1,
            limit=200,
        )[0]
        for weight, a, b in zip(belief.weights, belief.alpha, belief.beta, strict=True)
    ]
    return np.array(joint) / sum(joint)


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (0, 4), (1, 4), (2, 2), (16, 16), (3, 16)])
def test_the_posterior_is_bayes_rule(hits, n):
    expected = by_quadrature(hits, n, BELIEF)
    assert np.allclose(posterior(hits, n, BELIEF), expected, atol=1e-6)


def test_hits_raise_it_and_misses_lower_it():
    misses = [posterior(0, n, Belief())[MEMORIZED] for n in (0, 2, 4, 8, 16)]
    assert all(later < earlier for earlier, later in pairwise(misses))
    assert misses[2] < 0.02  # four drawings without a hit close a caption
    assert posterior(2, 2, Belief())[NONE] < 0.02  # two of two settle it


def test_a_score_moves_the_odds_of_memorized_against_none_by_its_logit():
    plain, scored = posterior(1, 4, BELIEF), posterior(1, 4, BELIEF, z=5.0)
    moved = math.log(scored[2] / scored[0]) - math.log(plain[2] / plain[0])
    assert moved == pytest.approx(BELIEF.slope * 5 + BELIEF.intercept)
    assert log_odds(1e9, BELIEF) == -log_odds(-1e9, BELIEF) == 6
    assert log_odds(None, BELIEF) == 0


def test_confidence_is_of_one_verdict_or_the_other():
    found, none = (confidence(1, 4, BELIEF, found=f) for f in (True, False))
    assert found + none == pytest.approx(1)
    kinds = posterior(1, 4, BELIEF)
    assert found == pytest.approx(kinds[MEMORIZED] / (kinds[MEMORIZED] + kinds[NONE]))


def test_scores_are_read_in_units_of_the_controls():
    reference = Reference.of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (reference.centre, reference.deviation) == (3.0, 1.0)  # one outlier moves neither
    assert reference.standardize(5.0) == 2.0
    assert math.isfinite(Reference.of([1.0]).standardize(2.0))


@pytest.mark.parametrize(("hits", "n"), [(-1, 2), (3, 2)])
def test_impossible_counts_are_refused(hits, n):
    with pytest.raises(MeasureError):
        posterior(hits, n, Belief())


def test_bad_beliefs_and_references_are_refused():
    with pytest.raises(MeasureError):
        Belief(alpha=(0.0, 1.0, 1.0))
    for scores in ([], [math.nan]):
        with pytest.raises(MeasureError):
            Reference.of(scores)
