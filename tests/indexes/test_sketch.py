"""Sketches bound inner products from above: in float64, for any vectors."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import unit
from indexes.sketch import KEPT_ENERGY, Sketcher, directions, fit_sketcher


def decaying(n: int, d: int, seed: int = 0, power: float = 0.8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((n, d)) * (1.0 + np.arange(d)) ** -power)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 40))
def test_sketches_never_say_less_than_the_vectors(seed, p):
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.standard_normal((40, p)))
    sketcher = Sketcher(np.ascontiguousarray(axes.T, np.float32))
    vectors = decaying(30, 40, seed)
    near = unit(vectors + 0.1 * rng.standard_normal(vectors.shape))
    bound = sketcher(vectors).astype(np.float64) @ sketcher(near).astype(np.float64).T
    true = vectors.astype(np.float64) @ near.astype(np.float64).T
    assert (bound >= true - 1e-6).all()


def test_all_directions_give_the_inner_products_themselves():
    vectors = decaying(20, 16)
    sketches = Sketcher(np.eye(16, dtype=np.float32))(vectors)
    np.testing.assert_allclose(sketches @ sketches.T, vectors @ vectors.T, atol=1e-6)


def test_the_directions_are_the_leading_eigenvectors():
    vectors = decaying(5000, 200, power=0.5)
    basis = fit_sketcher(vectors).basis.astype(np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-5)
    _, singular, axes = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)
    overlap = np.abs(np.sum(basis * axes[: len(basis)], axis=1))
    assert (overlap[:5] > 1 - 1e-4).all()
    held = (singular[: len(basis)] ** 2).sum() / (singular**2).sum()
    assert held >= KEPT_ENERGY
    assert (len(basis) + 1) % 32 == 0 and len(basis) < 200
    below = (singular[: len(basis) - 32] ** 2).sum() / (singular**2).sum()
    assert below < KEPT_ENERGY  # no more steps than needed


def test_few_dimensions_are_all_kept():
    assert fit_sketcher(decaying(100, 8)).basis.shape == (8, 8)


def test_directions_have_unit_norm():
    vectors = decaying(10, 12).astype(np.float16) * np.float16(3)
    np.testing.assert_allclose(directions(vectors), unit(vectors), atol=1e-6)
