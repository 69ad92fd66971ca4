import numpy as np
import pytest
import torch

from pipeline.detection.errors import MeasureError
from pipeline.detection.sharpness import sharpness

SHAPE = (3, 2, 4, 4)


def smooth_gap():
    """D(x) = tanh of a random convolution, in float64."""
    kernel = 0.5 * torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    return lambda x: torch.tanh(torch.nn.functional.conv2d(x, kernel, padding=1) + 0.3 * x**2)


def point(seed=1):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).double()


def test_against_the_whole_jacobian():
    """H of each score by reverse mode, row by row; s_c - s_u = -D / σ."""
    gap, x = smooth_gap(), point()
    sigma = torch.tensor([0.5, 0.9, 1.0]).double().view(-1, 1, 1, 1)
    expected = []
    for row in range(3):
        s = sigma[row].item()

        def score(flat, s=s):
            return (-gap(flat.view(1, *SHAPE[1:])) / s).flatten()

        flat = x[row].flatten()
        hessian = torch.autograd.functional.jacobian(score, flat)
        expected.append((hessian @ score(flat)).norm().item())
    assert np.allclose(sharpness(gap, x, sigma), expected, rtol=1e-10)


def test_against_finite_differences():
    gap, x = smooth_gap(), point()
    sigma = torch.full((3, 1, 1, 1), 0.7).double()
    direction, step = gap(x), 1e-5
    change = (gap(x + step * direction) - gap(x - step * direction)) / (2 * step)
    expected = (change / 0.49).flatten(1).norm(dim=1)
    assert np.allclose(sharpness(gap, x, sigma), expected, rtol=1e-7)


def test_a_linear_gap_in_closed_form():
    """D = a x + b: J D = a D."""
    x = point()
    found = sharpness(lambda x: 3 * x + 1, x, torch.ones(3, 1, 1, 1))
    assert np.allclose(found, (3 * (3 * x + 1)).flatten(1).norm(dim=1))


def test_rows_do_not_depend_on_their_neighbours():
    gap, x, sigma = smooth_gap(), point(), torch.ones(3, 1, 1, 1).double()
    together = sharpness(gap, x, sigma)
    alone = [sharpness(gap, x[i : i + 1], sigma[:1])[0] for i in range(3)]
    assert np.allclose(together, alone, rtol=1e-12)


def test_refuses():
    x, ones = point(), torch.ones(3, 1, 1, 1)
    with pytest.raises(MeasureError, match="sigma"):
        sharpness(lambda x: x, x, 0 * ones)
    with pytest.raises(MeasureError, match="gap"):
        sharpness(lambda x: x[:, :1], x, ones)
