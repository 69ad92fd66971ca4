import numpy as np
import pytest
import torch
from erasure_references import alpha_sigma, latents_of, nearest

from pipeline.erasure.retrack import Redirected, redirected_noise
from pipeline.erasure.sources import Prompts
from pipeline.errors import InputError


def redirected(model, targets):
    return Redirected(model, targets, Prompts(model, [t.captions for t in targets]))


def test_the_target_is_the_weighted_sum_over_neighbours_in_float64():
    """Σ_j w_j [ε + (α/σ)(a - r_j)], term by term, as the source writes it."""
    rng = np.random.default_rng(0)
    a, noise = rng.normal(size=(2, 4, 8, 8))
    near = rng.normal(size=(5, 4, 8, 8)) * 0.3 + a
    for alpha in (0.1, 0.5, 0.9):
        sigma = np.sqrt(1 - alpha**2)
        x_t = alpha * a + sigma * noise
        squares = ((x_t - alpha * near) ** 2).sum(axis=(1, 2, 3)) / (2 * sigma**2)
        weights = np.exp(squares.min() - squares)
        weights /= weights.sum()
        terms = noise + alpha / sigma * (a - near)
        expected = (weights[:, None, None, None] * terms).sum(axis=0)
        found = redirected_noise(
            torch.from_numpy(x_t), torch.from_numpy(near), torch.tensor(alpha), torch.tensor(sigma)
        )
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


def test_it_is_the_score_of_the_neighbours_mixture():
    """-σ ∇ log Σ_j N(x; α r_j, σ²), by automatic differentiation."""
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(3, 2, 2, 2, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    alpha, sigma = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    density = torch.logsumexp(-(x - alpha * near).flatten(1).square().sum(1) / (2 * sigma**2), 0)
    (score,) = torch.autograd.grad(density, x)
    found = redirected_noise(x.detach(), near, alpha, sigma)
    torch.testing.assert_close(found, -sigma * score)


def test_one_neighbour_is_where_the_noise_leads(model, complete_targets):
    """With a single neighbour, (x_t - σ T) / α is that neighbour at every level."""
    target = complete_targets[1]
    only = [type(target)(8, target.captions, target.pictures, target.neighbours[:1])]
    examples = redirected(model, only).draw(32, torch.Generator().manual_seed(0))
    alpha, sigma = alpha_sigma(examples.timesteps)
    x_0 = (examples.x_t.double().numpy() - sigma * examples.target.double().numpy()) / alpha
    expected = latents_of(model, target.neighbours[:1])
    np.testing.assert_allclose(x_0, np.broadcast_to(expected, x_0.shape), rtol=0, atol=2e-4)


def test_each_picture_goes_to_its_own_neighbours_under_its_own_captions(model, complete_targets):
    examples = redirected(model, complete_targets).draw(64, torch.Generator().manual_seed(0))
    alpha, sigma = alpha_sigma(examples.timesteps)
    x_0 = (examples.x_t.double().numpy() - sigma * examples.target.double().numpy()) / alpha
    sharp = examples.timesteps.numpy() < 100  # there one neighbour has all the weight
    latents = np.concatenate([latents_of(model, t.neighbours) for t in complete_targets])
    found = nearest(x_0[sharp], latents)
    with torch.no_grad():
        texts = model.embed_text(["a red hat", "hat, red", "blue bus"]).numpy()
    captions = nearest(examples.text.numpy()[sharp], texts)
    assert sharp.sum() >= 3
    assert ((found >= len(complete_targets[0].neighbours)) == (captions == 2)).all()


def test_the_weight_bounds_the_error_by_that_of_x0(model, complete_targets):
    examples = redirected(model, complete_targets).draw(256, torch.Generator().manual_seed(0))
    alpha, sigma = (value.ravel() for value in alpha_sigma(examples.timesteps))
    expected = np.minimum(1, 5 * sigma**2 / alpha**2)
    np.testing.assert_allclose(examples.weight.numpy(), expected, rtol=1e-4)
    assert expected.min() < 0.05
    assert expected.max() == 1


def test_a_target_without_neighbours_is_refused(model, targets):
    with pytest.raises(InputError, match="target 7: no neighbours"):
        redirected(model, targets)
