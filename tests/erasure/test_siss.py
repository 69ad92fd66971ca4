import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from pipeline.erasure.options import SissOptions
from pipeline.erasure.parameters import select_parameters, trainable
from pipeline.erasure.siss import Siss, mixture_weights, two_term_gradient
from pipeline.erasure.sources import Prompts
from pipeline.errors import InputError


@pytest.mark.parametrize("mixture", [0.2, 0.5, 0.9])
def test_the_weights_are_ratios_of_densities(mixture):
    """q(m|x) / q_λ(m) from the normal densities themselves, in few dimensions and float64."""
    rng = np.random.default_rng(0)
    alpha, sigma = 0.8, 0.6
    x, a, noise = rng.normal(size=(3, 16, 3))
    mixed = alpha * np.where(rng.random((16, 1)) < mixture, a, x) + sigma * noise
    spread = sigma**2 * np.eye(3)
    keep, forget = (
        np.array(
            [multivariate_normal.pdf(m, alpha * y, spread) for m, y in zip(mixed, own, strict=True)]
        )
        for own in (x, a)
    )
    both = (1 - mixture) * keep + mixture * forget
    noise_x, noise_a = (
        torch.from_numpy((mixed - alpha * own) / sigma).view(16, 3, 1, 1) for own in (x, a)
    )
    weight_x, weight_a = mixture_weights(noise_x, noise_a, mixture)
    np.testing.assert_allclose(weight_x.numpy(), keep / both, rtol=1e-10)
    np.testing.assert_allclose(weight_a.numpy(), forget / both, rtol=1e-10)
    total = (1 - mixture) * weight_x + mixture * weight_a
    np.testing.assert_allclose(total.numpy(), 1, rtol=1e-10)


def test_the_weights_are_unbiased():
    """E_{m ~ q_λ} w_x f(m) = E_{m ~ q(.|x)} f(m), by quadrature on a line."""
    grid = np.linspace(-8, 8, 4001)
    alpha, sigma, x, a, mixture = 0.8, 0.6, 1.0, -1.5, 0.5
    keep, forget = (
        np.exp(-((grid - alpha * y) ** 2) / (2 * sigma**2)) / np.sqrt(2 * np.pi * sigma**2)
        for y in (x, a)
    )
    noise_x, noise_a = (
        torch.from_numpy((grid - alpha * y) / sigma).view(-1, 1, 1, 1) for y in (x, a)
    )
    weight_x, _ = mixture_weights(noise_x, noise_a, mixture)
    density = (1 - mixture) * keep + mixture * forget
    step = grid[1] - grid[0]
    for function in (grid, grid**2, np.cos(grid)):
        found = (density * weight_x.numpy() * function).sum() * step
        assert found == pytest.approx((keep * function).sum() * step, rel=1e-6)


def test_weights_stay_finite_where_densities_underflow():
    far, near = torch.full((1, 4, 8, 8), 30.0), torch.zeros(1, 4, 8, 8)
    weight_x, weight_a = mixture_weights(far, near, 0.5)
    assert (weight_x.item(), weight_a.item()) == (0.0, 2.0)
    weight_x, weight_a = mixture_weights(near, far, 0.5)
    assert (weight_x.item(), weight_a.item()) == (2.0, 0.0)


def flat(parts):
    return torch.cat([part.ravel() for part in parts])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_forgetting_has_a_fixed_share_of_the_keeping_norm_whatever_its_own(scale):
    generator = torch.Generator().manual_seed(0)
    keep = [torch.randn(5, generator=generator), torch.randn(3, 2, generator=generator)]
    forget = [scale * torch.randn(5, generator=generator), scale * torch.ones(3, 2)]
    found = two_term_gradient(keep, forget, SissOptions(forget_ratio=0.1, clip=1e9))
    step = flat(keep) - flat(found)
    assert float(step.norm()) == pytest.approx(0.1 * float(flat(keep).norm()), rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(step, flat(forget), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)


def test_the_whole_is_clipped_and_nothing_is_stretched():
    keep, forget = [torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 0.0])]
    found = two_term_gradient(keep, forget, SissOptions(clip=1.0))
    torch.testing.assert_close(found[0], torch.tensor([0.6, 0.8]))
    small = two_term_gradient([torch.tensor([0.3])], [None], SissOptions(clip=1.0))
    assert small[0].item() == pytest.approx(0.3)
    assert two_term_gradient([None], [None], SissOptions()) == [None]


def siss(model, targets, options, trained):
    prompts = Prompts(model, [target.captions for target in targets])
    return Siss(model, trained, targets, prompts, options, "noise")


def test_a_small_step_descends_on_keeping_less_scaled_forgetting(
    model, complete_targets, monkeypatch
):
    """Both losses are measured on the very batch of the step, along the gradient that it gave."""
    trained = select_parameters(model.unet, "full")
    source = siss(model, complete_targets[:1], SissOptions(forget_ratio=0.5, clip=1e9), trained)
    losses, norms = [], []
    original = torch.autograd.grad

    def spy(loss, *args, **kwargs):
        losses.append(float(loss.detach()))
        parts = original(loss, *args, **kwargs)
        norms.append(float(flat([part for part in parts if part is not None]).norm()))
        return parts

    monkeypatch.setattr(torch.autograd, "grad", spy)

    def gradient():
        with trainable(model.unet, trained):
            source.accumulate(64, torch.Generator().manual_seed(0))
            return [t.grad if t.grad is not None else torch.zeros_like(t) for t in trained.values()]

    step = gradient()
    scale = 0.5 * norms[0] / norms[1]
    expected = float(flat(step).square().sum())  # the slope along the gradient
    size = 0.02 / expected**0.5
    with torch.no_grad():
        for tensor, part in zip(trained.values(), step, strict=True):
            tensor.sub_(size * part)
    gradient()
    before, after = (keep - scale * forget for keep, forget in (losses[:2], losses[2:]))
    assert (before - after) / size == pytest.approx(expected, rel=0.2)


def test_the_gradient_is_added_to_what_is_there(model, complete_targets):
    trained = select_parameters(model.unet, "full")
    found = []
    with trainable(model.unet, trained):
        for start in (None, 1.0):
            for tensor in trained.values():
                tensor.grad = None if start is None else torch.full_like(tensor, start)
            siss(model, complete_targets, SissOptions(), trained).accumulate(
                8, torch.Generator().manual_seed(0)
            )
            found.append(
                {
                    name: tensor.grad.clone()
                    for name, tensor in trained.items()
                    if tensor.grad is not None
                }
            )
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient + 1.0)


def test_targets_without_pictures_or_anchors_are_refused(model, targets):
    trained = select_parameters(model.unet, "full")
    with pytest.raises(InputError, match="target 7: no anchors"):
        siss(model, targets, SissOptions(), trained)
