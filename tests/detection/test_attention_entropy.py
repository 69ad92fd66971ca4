from math import log

import numpy as np
import pytest

from pipeline.detection.attention_entropy import entropy_drift, first_entropy
from pipeline.detection.errors import MeasureError


def attention(*shape, seed=0):
    values = np.random.default_rng(seed).random(shape) ** 4
    return values / values.sum(axis=-1, keepdims=True)


def entropy(row):
    return -sum(a * log(a) for a in row.tolist() if a > 0)


def test_drift_against_the_sums_written_out():
    found = attention(50, 3, 9)
    lengths = np.array([4, 9, 2])
    expected = []
    for row, length in enumerate(lengths):
        whole = [entropy(found[t, row]) for t in range(50)]
        rest = [entropy(found[t, row, length - 1 :]) for t in range(50)]
        expected.append(np.mean(whole[40:50]) + np.mean(rest[40:50]) - rest[0])
    assert np.allclose(entropy_drift(found, lengths), expected, rtol=1e-12)


def test_the_first_step_is_asked_at_the_fourth_layer_or_the_last():
    layers = attention(6, 2, 5)
    assert np.allclose(first_entropy(layers), [entropy(row) for row in layers[3]])
    assert np.allclose(first_entropy(layers[:2]), [entropy(row) for row in layers[1]])


def test_spread_is_high_and_settled_is_zero():
    tokens = 7
    even, settled = np.full((10, 1, tokens), 1 / tokens), np.zeros((10, 1, tokens))
    settled[:, :, 2] = 1  # zeros: 0 log 0 counts for nothing
    lengths = np.array([4])
    assert entropy_drift(even, lengths)[0] == pytest.approx(log(tokens))
    assert entropy_drift(settled, lengths)[0] == 0
    assert entropy_drift(np.concatenate([settled, even]), lengths)[0] == pytest.approx(
        log(tokens) * (1 + 4 / 7)
    )


@pytest.mark.parametrize(("steps", "last"), [(1, 1), (3, 1), (10, 2), (25, 5)])
def test_the_last_fifth(steps, last):
    found = attention(steps, 1, 6, seed=steps)
    expected = np.mean([entropy(found[t, 0]) for t in range(steps - last, steps)])
    rest = np.mean([entropy(found[t, 0, 5:]) for t in range(steps - last, steps)])
    expected += rest - entropy(found[0, 0, 5:])
    assert entropy_drift(found, np.array([6]))[0] == pytest.approx(expected)


def test_refuses():
    found = attention(5, 2, 4)
    for lengths in ([4], [0, 4], [5, 4]):
        with pytest.raises(MeasureError, match="lengths"):
            entropy_drift(found, np.array(lengths))
    with pytest.raises(MeasureError, match="steps, n, tokens"):
        entropy_drift(found[0], np.array([4, 4]))
    with pytest.raises(MeasureError, match=r"\[0, 1\]"):
        entropy_drift(found - 1, np.array([4, 4]))
    with pytest.raises(MeasureError, match=r"\[0, 1\]"):
        first_entropy(found * np.nan)
