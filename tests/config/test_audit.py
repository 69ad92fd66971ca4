"""How drawings are planned."""

from pipeline.config import Generate


def test_the_schedule_ends_with_the_most_drawings():
    assert Generate(per_prompt=6, rounds=(2, 4)).schedule == [
        range(2),
        range(2, 4),
        range(4, 6),
    ]
    assert Generate(per_prompt=2, rounds=(2, 4)).schedule == [range(2)]
