import numpy as np
import pytest
import torch

from pipeline.erasure.esd import esd_target


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 5, 4, 8, 8))


@pytest.mark.parametrize("eta", [-1.0, 0.0, 1.0, 2.5])
def test_formula_against_float64(predictions, eta):
    unconditional, conditional = predictions
    expected = (1 + eta) * unconditional - eta * conditional
    found = esd_target(*torch.from_numpy(predictions.astype(np.float32)), eta)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("k", [0.0, 1.0, 2.0, 3.5])
def test_eta_of_the_paper_is_one_less_than_the_scale_of_tools(predictions, k):
    unconditional, conditional = torch.from_numpy(predictions)
    of_tools = conditional - k * (conditional - unconditional)
    torch.testing.assert_close(esd_target(unconditional, conditional, k - 1), of_tools)


def test_a_worked_example():
    found = esd_target(torch.tensor([1.0]), torch.tensor([3.0]), 1.0)
    assert found.tolist() == [-1.0]  # as far on the other side of ε(∅) as the caption pulls


def test_the_formula_commutes_with_a_change_of_prediction_type(predictions):
    """T in v-space, turned into noise, is T in noise space: the coefficients sum to one."""
    velocity_u, velocity_c = torch.from_numpy(predictions)
    x_t, alpha, sigma, eta = torch.ones_like(velocity_u), 0.6, 0.8, 1.7
    noise_u, noise_c = (alpha * v + sigma * x_t for v in (velocity_u, velocity_c))
    velocity = esd_target(velocity_u, velocity_c, eta)
    torch.testing.assert_close(esd_target(noise_u, noise_c, eta), alpha * velocity + sigma * x_t)
