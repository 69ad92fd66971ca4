import numpy as np
import pytest

from pipeline.detection.errors import MeasureError
from pipeline.detection.scored_steps import ScoredSteps

NOISE, PATH = "pure_noise", "trajectory"


def columns_of(rows):
    """Columns from (prompt, seed, step, source, value): |u| = 0 and |c| = value."""
    prompt, seed, step, source, value = zip(*rows, strict=True) if rows else ((),) * 5
    zeros = np.zeros(len(rows))
    return {
        "prompt_id": np.array(prompt, np.int64),
        "seed": np.array(seed, np.int64),
        "step": np.array(step, np.int32),
        "x_t_source": np.array(source, object),
        "eps_dot_prev": np.full(len(rows), np.nan),
        "dim": np.full(len(rows), 4),
        "eps_uncond_sq": zeros,
        "eps_text_sq": np.array(value, float) ** 2,
        "eps_dot": zeros,
        "cos_channel_mean": zeros,
    }


# prompt 7 has two seeds with a late step, whose number falls inside the trajectory; 2 has one seed
ROWS = [
    (7, 0, 0, NOISE, 2.0),
    (7, 0, 1, PATH, 4.0),
    (7, 0, 2, PATH, 100.0),
    (7, 0, 1, NOISE, 30.0),
    (7, 1, 0, NOISE, 3.0),
    (7, 1, 1, PATH, 5.0),
    (7, 1, 2, PATH, 200.0),
    (7, 1, 1, NOISE, 50.0),
    (2, 5, 0, NOISE, 1.0),
    (2, 5, 1, PATH, 0.5),
]


def shuffled(rows, seed):
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def values(steps):
    return np.sqrt(steps.gram.eps_text_sq)


@pytest.mark.parametrize("seed", range(5))
def test_means_by_hand_whatever_the_order_of_rows(seed):
    steps = ScoredSteps(columns_of(shuffled(ROWS, seed)))
    assert steps.mean(values(steps), steps.first(), per_seed=1) == {7: 2.5, 2: 1.0}
    assert steps.mean(values(steps), steps.first(2), per_seed=2) == {7: 3.5, 2: 0.75}
    assert steps.mean(values(steps), steps.first(3), per_seed=3) == {7: 314 / 6}
    assert steps.mean(values(steps), steps.first(None)) == {7: 314 / 6, 2: 0.75}


@pytest.mark.parametrize("seed", range(5))
def test_the_late_step_is_the_other_on_pure_noise(seed):
    steps = ScoredSteps(columns_of(shuffled(ROWS, seed)))
    assert steps.mean(values(steps), steps.late(), per_seed=1) == {7: 40.0}


@pytest.mark.parametrize("seed", range(5))
def test_the_step_before_is_on_the_same_trajectory(seed):
    rows = [*ROWS, (9, 0, 0, NOISE, 1.0), (9, 0, 2, PATH, 2.0)]  # a step is missing
    steps = ScoredSteps(columns_of(shuffled(rows, seed)))
    before = steps.before(values(steps))
    found = {
        (prompt, step, value): previous
        for prompt, step, value, previous in zip(
            steps.prompt_id.tolist(), steps.step.tolist(), values(steps), before, strict=True
        )
    }
    expected = {
        (7, 1, 4.0): 2.0, (7, 2, 100.0): 4.0, (7, 1, 5.0): 3.0, (7, 2, 200.0): 5.0, (2, 1, 0.5): 1.0
    }  # fmt: skip
    assert {key: value for key, value in found.items() if not np.isnan(value)} == expected


def test_a_value_that_is_missing_leaves_the_prompt_out():
    steps = ScoredSteps(columns_of(ROWS))
    holed = np.where(values(steps) == 3.0, np.nan, values(steps))
    assert steps.mean(holed, steps.first(), per_seed=1) == {2: 1.0}
    assert steps.mean(holed, steps.first()) == {2: 1.0}


def test_no_rows():
    steps = ScoredSteps(columns_of([]))
    assert len(steps) == 0
    assert steps.mean(values(steps), steps.first(), per_seed=1) == {}
    assert steps.mean(values(steps), steps.late()) == {}
    assert len(steps.before(values(steps))) == 0


def test_refuses():
    with pytest.raises(MeasureError, match="twice"):
        ScoredSteps(columns_of([*ROWS, (7, 0, 1, PATH, 9.0)]))
    with pytest.raises(MeasureError, match="twice"):
        ScoredSteps(columns_of([*ROWS, (7, 0, 1, NOISE, 9.0)]))
    with pytest.raises(MeasureError, match="x_t_source"):
        ScoredSteps(columns_of([(1, 0, 0, "elsewhere", 1.0)]))
    columns = columns_of(ROWS)
    with pytest.raises(MeasureError, match="no column step"):
        ScoredSteps({name: value for name, value in columns.items() if name != "step"})
    with pytest.raises(MeasureError, match="one length"):
        ScoredSteps(columns | {"seed": columns["seed"][:-1]})
    with pytest.raises(MeasureError, match="finite"):
        ScoredSteps(columns | {"eps_dot": np.full(len(ROWS), np.inf)})
