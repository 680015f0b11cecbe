"""Pairs of noise and modes: potentials with closed forms, and what is found in data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.modules.coupling import ModeCoupling, group_rows, potentials, without_small
from marlzoo.replicas import Init

QUANTILES = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
NOISE = torch.special.ndtri(QUANTILES).unsqueeze(-1)  # the normal distribution, evenly


def shares(points: Tensor, g: Tensor, noise: Tensor) -> list[float]:
    """Of the noise, that each point gets."""
    cost = (noise.unsqueeze(-2) - points).square().sum(-1) - g
    return [
        round(float(share), 3) for share in torch.bincount(cost.argmin(-1), minlength=len(g)) / len(noise)
    ]


def test_unequal_modes_shift_the_boundary() -> None:
    """Modes at 1 and -1 with shares 1/4 and 3/4: the boundary is the quantile .6745, g_+ - g_- = -4 times it."""
    points, mass = torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.tensor([0.25, 0.75]).double()
    g = potentials(points, mass, NOISE)
    assert float(g[0] - g[1]) == pytest.approx(-2.698, abs=0.02)
    assert float(g.sum()) == pytest.approx(0.0, abs=1e-9)
    even = potentials(points, torch.full((2,), 0.5).double(), NOISE)
    assert float(even[0] - even[1]) == pytest.approx(0.0, abs=0.02)


def dual(g: Tensor, points: Tensor, mass: Tensor, noise: Tensor) -> Tensor:
    """``sum_k b_k g_k + mean_z min_k (|z - y_k|^2 - g_k)``, as it is written."""
    cost = (noise.unsqueeze(-2) - points).square().sum(-1)
    return (mass * g).sum() + (cost - g).amin(-1).mean()


def test_potentials_are_the_top_of_their_objective() -> None:
    """Nothing else is higher; slopes are 0 there and sum to 0 everywhere, and a constant changes nothing."""
    source = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 2, generator=source, dtype=torch.float64)
    points = torch.randn(4, 2, generator=source, dtype=torch.float64)
    mass = torch.tensor([0.4, 0.1, 0.2, 0.3], dtype=torch.float64)
    g = potentials(points, mass, noise)
    top = float(dual(g, points, mass, noise))
    for size in (0.05, 0.3, 2.0):
        for _ in range(5):
            other = g + size * torch.randn(4, generator=source, dtype=torch.float64)
            assert float(dual(other, points, mass, noise)) < top + 1e-5
    assert top > float(dual(torch.zeros_like(g), points, mass, noise)) + 0.01
    for place, most in ((g, 0.01), (torch.zeros_like(g), 1.0)):
        place = place.clone().requires_grad_()
        (slope,) = torch.autograd.grad(dual(place, points, mass, noise), place)
        assert float(slope.abs().max()) < most
        assert float(slope.sum()) == pytest.approx(0.0, abs=1e-12)
    assert float(dual(g + 3.0, points, mass, noise)) == pytest.approx(top, abs=1e-9)


def test_modes_of_equal_share_get_what_is_nearer() -> None:
    """Opposite points: equal potentials, so that noise belongs to the point on its side."""
    points = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.cat((noise, -noise))
    g = potentials(points, torch.full((2,), 0.5).double(), noise)
    assert float((g[0] - g[1]).abs()) < 0.02
    cost = (noise.unsqueeze(-2) - points).square().sum(-1)
    assert float(((cost - g).argmin(-1) == cost.argmin(-1)).double().mean()) > 0.99
    assert float(((cost.argmin(-1) == 0) == (noise[:, 0] > noise[:, 1])).double().mean()) == 1.0


def test_every_mode_gets_its_share() -> None:
    """Equal points share theirs; a point without mass gets nothing."""
    source = torch.Generator().manual_seed(1)
    noise = torch.randn(20_000, 3, generator=source, dtype=torch.float64)
    points = torch.randn(5, 3, generator=source, dtype=torch.float64)
    points[3] = points[2]
    mass = torch.tensor([0.1, 0.35, 0.2, 0.35, 0.0], dtype=torch.float64)
    g = potentials(points, mass, noise)
    assert float(g[:4].mean()) == pytest.approx(0.0, abs=1e-9)
    found = shares(points, g, noise)
    np.testing.assert_allclose([*found[:2], found[2] + found[3], found[4]], [0.1, 0.35, 0.55, 0.0], atol=0.01)
    assert found[4] == 0.0


def read(context: Any, action: Any, contexts: int = 4, modes: int = 4) -> ModeCoupling:
    coupling = ModeCoupling(Init([0]), context.shape[1], action.shape[1], contexts, modes)
    coupling.read(0, 0, context, action)
    return coupling


def test_noise_of_xor_belongs_to_one_of_its_two_conventions() -> None:
    """(A, B) and (B, A) in equal shares: the mode is the sign of a difference of the noise."""
    algorithm: Any = marlzoo.make("mac_flow", games.spec("xor"), coupling="mosdot", hidden=8, seeds=[0])
    algorithm.prepare([game_data.dataset("xor", "D2", episodes=1000)], iter(()))
    noise = torch.randn(1, 500, 4, generator=torch.Generator().manual_seed(2))
    found = algorithm.coupling(torch.ones(1, 500, 2), noise, torch.rand(1, 500))
    first = noise @ torch.tensor([1.0, -1.0, -1.0, 1.0]) > 0.0
    wanted = torch.where(first.unsqueeze(-1), torch.tensor([1.0, 0, 0, 1]), torch.tensor([0.0, 1, 1, 0]))
    assert (found == wanted).all(-1).float().mean() > 0.98
    assert ((found == wanted).all(-1) | (found == wanted.flip(-1)).all(-1)).all()


def test_contexts_have_modes_of_their_own() -> None:
    """Actions near 0.5 or -0.5 where x = 0, near 0.9 where x = 1; a mode's member is one of its actions."""
    rng = np.random.default_rng(0)
    x = np.repeat([0.0, 1.0], 300)[:, None]
    action = np.where(x > 0, 0.9, np.where(np.arange(600)[:, None] % 2, 0.5, -0.5))
    action = action + 0.01 * rng.uniform(-1, 1, action.shape)
    coupling = read(x, action, modes=2)
    noise = torch.linspace(-2, 2, 40).view(1, 40, 1)
    at = [coupling(torch.full((1, 40, 1), value), noise, torch.full((1, 40), 0.5)) for value in (0.0, 1.0)]
    torch.testing.assert_close(at[0], 0.5 * noise.sign(), rtol=0, atol=0.011)
    torch.testing.assert_close(at[1], torch.full_like(noise, 0.9), rtol=0, atol=0.011)
    assert np.isin(torch.cat(at).numpy().ravel(), action.astype(np.float32)).all()


def test_small_groups_join_the_nearest() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat([[0.0], [1.0], [1.2]], (50, 49, 1), axis=0)
    centers, labels = group_rows(rows, 3, rng)
    kept, joined = without_small(centers, labels)
    assert kept.ravel().tolist() == [0.0, 1.0]
    assert joined.tolist() == [0] * 50 + [1] * 50
    assert len(group_rows(rng.normal(size=(200, 2)), 3, rng)[0]) == 3


def test_down_the_objective_a_mode_loses_all_its_noise() -> None:
    """A little beside the potentials of two modes: slopes lead back, and the other way one mode is left empty."""
    points, mass = torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.tensor([0.25, 0.75]).double()
    best, empty = potentials(points, mass, NOISE), []
    for sign in (1.0, -1.0):
        g = best + torch.tensor([0.3, -0.3])
        for _ in range(60):
            at = g.clone().requires_grad_()
            (slope,) = torch.autograd.grad(dual(at, points, mass, NOISE), at)
            g = g + sign * slope
        empty.append(min(shares(points, g, NOISE)))
        assert (float((g - best).abs().max()) < 0.02) == (sign > 0)
    assert empty == [pytest.approx(0.25, abs=0.01), 0.0]
