"""The detectors from stored scalars, against float64 arithmetic on the predictions themselves."""

import numpy as np
import pytest
import torch

from pipeline.detection.gram_detectors import (
    GRAM_DETECTORS,
    anisotropy,
    anisotropy_cosine,
    dsm_change,
    noise_gap,
    webster,
)
from pipeline.detection.noise_gap import gram
from pipeline.detection.scored_steps import ScoredSteps
from pipeline.io import schemas

SHAPE = (4, 6, 5)
SEEDS, STEPS = (11, 5), 3


def predictions(prompts=(3, 1, 2), late=True):
    """{(prompt, seed, step, source): (u, c)} in float32; the captions' gaps differ in size."""
    rng = np.random.default_rng(0)
    found = {}
    for prompt in prompts:
        for seed in SEEDS:
            for step in range(STEPS):
                uncond = rng.standard_normal(SHAPE)
                text = uncond + 0.1 * prompt * rng.standard_normal(SHAPE)
                found[prompt, seed, step, "trajectory" if step else "pure_noise"] = (uncond, text)
            if late:
                uncond = rng.standard_normal(SHAPE)
                text = (1 + 0.1 * prompt) * uncond + 0.1 * rng.standard_normal(SHAPE)
                found[prompt, seed, 22, "pure_noise"] = (uncond, text)
    return {key: tuple(x.astype(np.float32) for x in pair) for key, pair in found.items()}


def stored(found):
    """The scalars as the screen stores them."""
    rows = []
    for (prompt, seed, step, source), (uncond, text) in found.items():
        scalars = gram(torch.from_numpy(uncond)[None], torch.from_numpy(text)[None])
        before = found.get((prompt, seed, step - 1, "trajectory" if step > 1 else "pure_noise"))
        known = before is not None and source == "trajectory"
        dot = float((before[1].astype(np.float64) * text).sum()) if known else np.nan
        rows.append(
            {"prompt_id": prompt, "seed": seed, "step": step, "x_t_source": source}
            | {name: column[0] for name, column in vars(scalars).items()}
            | {"eps_dot_prev": dot}
        )
    return ScoredSteps({name: np.array([row[name] for row in rows]) for name in rows[0]})


def average(found, score, keys):
    """The mean of score(u, c) in float64 over the predictions at the (step, source) kept."""
    return {
        prompt: np.mean(
            [
                score(*(x.astype(np.float64) for x in pair))
                for (p, _, step, source), pair in found.items()
                if p == prompt and keys(step, source)
            ]
        )
        for prompt in {key[0] for key in found}
    }


def norm(uncond, text):
    return np.sqrt(((text - uncond) ** 2).sum())


def cosine(uncond, text):
    values = []
    for y, x in np.ndindex(*SHAPE[1:]):
        u, d = uncond[:, y, x], text[:, y, x] - uncond[:, y, x]
        values.append(u @ d / np.sqrt((u @ u) * (d @ d)))
    return np.mean(values)


FOUND = predictions()


def test_wen():
    first = average(FOUND, norm, lambda step, _: step == 0)
    assert noise_gap(stored(FOUND)) == pytest.approx(first, rel=1e-9)
    every = average(FOUND, norm, lambda step, source: step < STEPS)
    assert noise_gap(stored(FOUND), first=None) == pytest.approx(every, rel=1e-9)
    two = average(FOUND, norm, lambda step, _: step < 2)
    assert noise_gap(stored(FOUND), first=2) == pytest.approx(two, rel=1e-9)
    assert noise_gap(stored(FOUND), first=STEPS + 1) == {}


def test_webster():
    def energy(uncond, text):
        return ((uncond + 7.5 * (text - uncond)) ** 2).mean()

    expected = average(FOUND, energy, lambda step, _: step == 0)
    assert webster(stored(FOUND)) == pytest.approx(expected, rel=1e-9)


def test_webster_is_one_heun_step_to_zero():
    """His code: z0 = sigma_max noise; the last step is Euler's, x' = x - sigma_max eps_cfg."""
    sigma, rng = 14.6, np.random.default_rng(1)
    uncond, text = rng.standard_normal((2, 1, *SHAPE))
    z0 = sigma * rng.standard_normal((1, *SHAPE))
    latents = z0 + (0 - sigma) * (uncond + 7.5 * (text - uncond))
    found = {(1, 0, 0, "pure_noise"): (uncond[0], text[0])}
    assert sigma**2 * webster(stored(found))[1] == pytest.approx(((z0 - latents) ** 2).mean())


def test_asthana():
    late = average(FOUND, cosine, lambda step, _: step == 22)
    assert anisotropy_cosine(stored(FOUND)) == pytest.approx(late, rel=1e-9)
    gap = average(FOUND, norm, lambda step, _: step == 0)
    scale = np.sqrt(4 * 64 * 64 / np.prod(SHAPE))
    expected = {p: 2 * scale * gap[p] + 0.5 * late[p] for p in gap}
    assert anisotropy(stored(FOUND), weights=(2.0, 0.5)) == pytest.approx(expected, rel=1e-9)


def test_the_weights_are_the_published_ones_at_the_published_size():
    rng = np.random.default_rng(0)
    pair = {
        (1, 0, step, "pure_noise"): tuple(rng.standard_normal((2, 4, 64, 64), np.float32))
        for step in (0, 47)
    }
    steps = stored(pair)
    assert anisotropy(steps)[1] == pytest.approx(
        noise_gap(steps)[1] + 2 * anisotropy_cosine(steps)[1]
    )


@pytest.mark.parametrize("after", [0, 1])
def test_dsm_change(after):
    expected = {}
    for prompt in (1, 2, 3):
        squares = []
        for seed in SEEDS:
            text = [
                FOUND[prompt, seed, step, "trajectory" if step else "pure_noise"][1]
                for step in range(STEPS)
            ]
            gap = text[after + 1].astype(np.float64) - text[after]
            squares.append((gap**2).sum())
        expected[prompt] = np.mean(squares)
    assert dsm_change(stored(FOUND), after=after) == pytest.approx(expected, rel=1e-9)


def test_without_a_late_step_there_is_no_anisotropy():
    steps = stored(predictions(late=False))
    assert anisotropy_cosine(steps) == anisotropy(steps) == {}


def test_what_was_not_stored_has_no_score():
    found = {key: pair for key, pair in FOUND.items() if key[2] == 0}
    steps = stored(found)
    assert dsm_change(steps) == {} and set(noise_gap(steps)) == {1, 2, 3}
    del found[1, SEEDS[0], 0, "pure_noise"]
    found |= {k: p for k, p in FOUND.items() if k[:2] == (2, SEEDS[0]) and k[2] == 1}
    assert noise_gap(stored(found), first=2) == {}  # the other seed of 2 has one step


def test_every_detector_has_a_column_of_its_own():
    names = [detector.name for detector in GRAM_DETECTORS]
    assert len(set(names)) == len(names)
    assert set(names) <= set(schemas.FINDINGS.names)
    for detector in GRAM_DETECTORS:
        assert set(detector.score(stored(FOUND))) == {1, 2, 3}, detector.name
