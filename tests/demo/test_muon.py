"""Muon against the singular value decomposition and a longhand step."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.demo.muon import WARM_UP, Muon, muon_and_adamw, orthogonal, warm_cosine


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 8, 8)])
def test_orthogonal_keeps_singular_vectors_and_evens_out_the_values(shape):
    u = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(u, full_matrices=False)
    rotated = left.mT @ orthogonal(u) @ right.mT
    values = torch.diagonal(rotated, dim1=1, dim2=2)
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert (rotated - torch.diag_embed(values)).abs().max() < 1e-6


def test_two_steps_by_hand():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(6, 2, 2)).astype(np.float32)
    gradients = rng.normal(size=(2, 6, 2, 2)).astype(np.float32)
    weight = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = Muon([weight], lr=0.1, momentum=0.9)
    expected, average = start.reshape(6, 4).astype(np.float64), np.zeros((6, 4))
    for gradient in gradients:
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
        g = gradient.reshape(6, 4).astype(np.float64)
        average = 0.9 * average + 0.1 * g
        x = 0.9 * average + 0.1 * g
        x = x / np.linalg.norm(x)
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
        expected = expected - 0.1 * np.sqrt(6 / 4) * x
    np.testing.assert_allclose(weight.detach().reshape(6, 4), expected, atol=2e-5)


def test_equal_shapes_in_one_batch_change_nothing():
    torch.manual_seed(0)
    together = [nn.Parameter(torch.randn(4, 6)) for _ in range(3)]
    apart = [nn.Parameter(w.detach().clone()) for w in together]
    for a, b in zip(together, apart, strict=True):
        a.grad = b.grad = torch.randn(4, 6)
        Muon([b], lr=0.02).step()
    Muon(together, lr=0.02).step()
    for a, b in zip(together, apart, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_every_weight_has_exactly_one_optimizer():
    model = nn.ModuleDict(
        {"embed": nn.Embedding(5, 4), "conv_in": nn.Conv2d(3, 4, 3), "mid": nn.Conv2d(4, 4, 3)}
    )
    muon, adamw = muon_and_adamw(model, 0.02, 2e-3)
    owned = [[p for g in o.param_groups for p in g["params"]] for o in (muon, adamw)]
    assert [id(p) for p in owned[0]] == [id(model["mid"].weight)]
    assert sorted(map(id, owned[0] + owned[1])) == sorted(map(id, model.parameters()))


def test_rates_rise_and_fall_to_the_floor():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = warm_cosine(optimizer, 1000, floor=0.1)
    rates = []
    for _ in range(1001):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.5 / WARM_UP)
    assert max(rates) == rates[WARM_UP - 1] == pytest.approx(0.5, rel=0.01)
    assert rates[500] == pytest.approx(0.5 * 0.55)  # half way, half way to the floor
    assert rates[1000] == pytest.approx(0.05)
