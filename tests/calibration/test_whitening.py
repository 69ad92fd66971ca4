import numpy as np
import pytest
from safetensors.torch import load_file

from pipeline.calibration.whitening import fit_whitening
from pipeline.errors import UsageError


def noisy(n=400, width=20, seed=0, *, informative=(5, 6, 7)):
    """Originals differ in a few directions; edits move along one other direction, far."""
    rng = np.random.default_rng(seed)
    originals = 0.05 * rng.standard_normal((n, width))
    originals[:, list(informative)] += rng.standard_normal((n, len(informative)))
    origin = np.repeat(np.arange(n), 3)
    edits = originals[origin] + 0.02 * rng.standard_normal((3 * n, width))
    edits[:, 0] += 2 * rng.standard_normal(3 * n)
    return originals + 4, edits + 4, origin


def test_kept_directions_have_unit_variance_over_originals_and_no_correlation():
    originals, edits, origin = noisy()
    fitted = fit_whitening(originals, edits, origin, dimensions=8)
    seen = (originals - fitted.mean) @ fitted.projection
    assert np.abs(seen.mean(axis=0)).max() < 1e-4
    assert np.abs(np.cov(seen.T, bias=True) - np.eye(8)).max() < 1e-3


def test_what_edits_change_is_dropped_and_what_tells_pictures_apart_is_kept():
    originals, edits, origin = noisy()
    fitted = fit_whitening(originals, edits, origin, dimensions=3, shrinkage=1e-3)
    weight = np.abs(fitted.projection)
    assert weight[[5, 6, 7]].max(axis=1).min() > 0.3
    assert weight[0].max() < 0.02


def test_it_is_the_generalised_eigenproblem():
    """C_D v = lambda C_S v by the residual, in float64, with the covariances written out."""
    originals, edits, origin = noisy(width=6, informative=(1, 2))
    fitted = fit_whitening(originals, edits, origin, dimensions=2, shrinkage=0.5)
    within, between = np.zeros((6, 6)), np.zeros((6, 6))
    for j, edit in enumerate(edits):
        moved = edit - originals[origin[j]]
        within += np.outer(moved, moved) / len(edits)
    for row in originals:
        between += np.outer(row - originals.mean(0), row - originals.mean(0)) / len(originals)
    within += 0.5 * np.trace(within) / 6 * np.eye(6)
    values = np.sort(np.linalg.eigvals(np.linalg.solve(within, between)).real)[::-1]
    for column, value in zip(fitted.projection.T.astype(np.float64), values, strict=False):
        assert np.abs(between @ column - value * within @ column).max() < 1e-4 * value


def test_copies_come_nearer_and_strangers_do_not():
    originals, edits, origin = noisy()
    fitted = fit_whitening(originals[:200], edits[:600], origin[:600], dimensions=3, shrinkage=1e-3)

    def cosine(a, b, mean, projection):
        u, v = (a - mean) @ projection, (b - mean) @ projection
        return (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)

    fresh, copies = originals[origin[600:]], edits[600:]
    plain = cosine(fresh, copies, originals.mean(0), np.eye(20))
    mapped = cosine(fresh, copies, fitted.mean, fitted.projection)
    assert np.mean(mapped) > 0.95 > np.mean(plain)
    assert abs(cosine(fresh[:-3], copies[3:], fitted.mean, fitted.projection).mean()) < 0.1


def test_the_file_has_the_same_bytes_every_time(tmp_path):
    for name in ("a", "b"):
        fit_whitening(*noisy(), dimensions=5).save(tmp_path / f"{name}.safetensors")
    first, second = (tmp_path / f"{name}.safetensors" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    loaded = load_file(first)
    assert (loaded["mean"].shape, loaded["projection"].shape) == ((20,), (20, 5))


@pytest.mark.parametrize(("n", "moved"), [(10, True), (50, False)])
def test_too_little_to_fit_on(n, moved):
    originals, edits, origin = noisy(n)
    with pytest.raises(UsageError, match="whitening"):
        fit_whitening(originals, edits if moved else originals[origin], origin)
