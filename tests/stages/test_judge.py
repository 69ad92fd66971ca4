import pytest

from pipeline.detection.verdict import Verdict
from pipeline.stages.judge import is_found


@pytest.mark.parametrize(
    ("verdict", "n", "found"),
    [
        (Verdict.VERBATIM, 2, True),
        (Verdict.TEMPLATE, 4, False),  # two of four agree by chance
        (Verdict.TEMPLATE, 8, True),
        (Verdict.UNDECIDED, 16, False),
        (Verdict.NONE, 16, False),
    ],
)
def test_what_ends_the_drawing(verdict, n, found):
    assert is_found(verdict, n) == found
