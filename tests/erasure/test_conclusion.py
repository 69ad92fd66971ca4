import pytest

from pipeline.detection.intervals import difference
from pipeline.erasure.conclusion import Evidence, Tally, attempts_needed, conclude, total

N = 40
ALL, NOTHING = Tally(N, N), Tally(N, 0)


def evidence(after, *, attack="embedding", before=ALL, floor=(0, 0), n_floor=N, targets=4):
    """Attempts after erasing on each of four pictures; hits on unseen pictures before and after."""
    hits = [after] * targets if isinstance(after, int) else after
    return Evidence(
        attack,
        before=dict.fromkeys(range(targets), before),
        after={target: Tally(N, count) for target, count in enumerate(hits)},
        reference_before=Tally(n_floor, floor[0]),
        reference_after=Tally(n_floor, floor[1]),
    )


@pytest.mark.parametrize(
    ("attacks", "verdict", "words"),
    [
        ([], "suppressed", "no attack was run"),
        ([evidence(0)], "erased", "0 of 160 attempts"),
        ([evidence(30)], "suppressed", "120 of 160 attempts"),
        ([evidence(0), evidence(30, attack="completion")], "suppressed", "completion brings"),
        ([evidence(0, n_floor=0)], "suppressed", "without an oracle"),
        # an attack that writes every picture itself says nothing, nor does one that finds nothing
        ([evidence(N, floor=(N, N))], "suppressed", "no attack told"),
        ([evidence(0, before=NOTHING)], "suppressed", "no attack told"),
        ([evidence(0), evidence(0, attack="weak", before=NOTHING)], "erased", "embedding"),
        ([evidence(0), evidence(N, attack="strong", floor=(N, N))], "erased", "embedding"),
        # one picture of four that comes back is enough
        ([evidence([0, 0, 0, 30])], "suppressed", "1 of the pictures surely"),
        # and a few hits are neither
        ([evidence([0, 0, 0, 6])], "undecided", "73 attempts or more"),
        ([evidence(0, targets=1)], "undecided", "0 of 40 attempts"),
    ],
)
def test_the_ladder(attacks, verdict, words):
    found = conclude(attacks, 0.05)
    assert found.verdict == verdict
    assert words in found.why


def test_hits_at_the_floor_are_no_hits():
    """Half of the attempts bring back unseen pictures too; the pictures may as well be unseen."""
    many = Tally(4000, 2000)
    same = Evidence("e", {0: Tally(4000, 4000)}, {0: many}, many, many)
    assert conclude([same], 0.05).verdict == "erased"
    few = Evidence("e", {0: Tally(40, 40)}, {0: Tally(40, 20)}, Tally(40, 20), Tally(40, 20))
    assert conclude([few], 0.05).verdict == "undecided"


def test_the_bound_shown_is_newcombes_of_all_attempts():
    (finding,) = conclude([evidence([1, 0, 0, 0], floor=(0, 1))], 0.05).findings
    assert (finding.low, finding.high) == difference(1, 4 * N, 1, N)


def test_a_picture_needs_more_proof_where_many_are_attacked():
    """5 of 20 against 0 of 40 convinces alone, not as the best of four hundred."""
    alone = Evidence("e", {0: Tally(20, 20)}, {0: Tally(20, 5)}, Tally(40, 0), Tally(40, 0))
    assert conclude([alone], 0.05).findings[0].targets_back == (0,)
    crowd = {number: Tally(20, 0) for number in range(1, 400)}
    many = Evidence(
        "e",
        {number: Tally(20, 20) for number in range(400)},
        {0: Tally(20, 5), **crowd},
        Tally(40, 0),
        Tally(40, 0),
    )
    assert conclude([many], 0.05).findings[0].targets_back == ()


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1])
def test_the_attempts_that_it_takes(margin):
    n = attempts_needed(margin)
    assert difference(0, n, 0, n)[1] <= margin < difference(0, n - 1, 0, n - 1)[1]


def test_tallies_add_up():
    assert total({1: Tally(3, 1), 2: Tally(4, 2)}) == Tally(7, 3)
    assert Tally().rate == 0.0
    assert Tally(4, 1).rate == 0.25
