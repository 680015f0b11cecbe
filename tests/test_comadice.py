"""ComaDICE: divergences, the regression of nu, weights of constant data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from marlzoo.algorithms.comadice import Divergence, cost, ratio, regression

import marlzoo
from tests.fixed_nets import set_mixer, set_table, spec_of, transitions


def table(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def learner(**settings: Any) -> Any:
    small = {"hidden": 8, "mixer_hidden": 8, "batch_size": 4}
    return marlzoo.make("comadice", spec_of(2, 2), dtype=torch.float64, **(small | settings))


def test_soft_chi2_by_its_table() -> None:
    x = table(-2.0, -0.5, 0.0, 1.0, 3.0)
    expected = table(0.1353, 0.6065, 1.0, 2.0, 4.0), table(0.5940, 0.0902, 0.0, 0.5, 4.5)
    torch.testing.assert_close(ratio("soft_chi2", x), expected[0], atol=5e-5, rtol=0)
    torch.testing.assert_close(cost("soft_chi2", x), expected[1], atol=5e-5, rtol=0)


@pytest.mark.parametrize("f", ["soft_chi2", "chi2", "kl"])
def test_cost_changes_as_x_times_the_ratio(f: Divergence) -> None:
    """g = f(r), f'(r) = x, hence g'(x) = x r'(x); and the regression's gradient is alpha g's."""
    x = torch.linspace(-0.9, 3.0, 40, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(cost(f, x).sum(), x)
    (r,) = torch.autograd.grad(ratio(f, x).sum(), x)
    torch.testing.assert_close(g, x.detach() * r)
    e = (10.0 * x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(regression(f, e, table(0.0), 10.0).sum(), e)
    torch.testing.assert_close(slope, g)


def test_regression_gradient_by_its_table() -> None:
    e = table(-20.0, -5.0, 0.0, 5.0, 20.0).requires_grad_()
    (slope,) = torch.autograd.grad(regression("soft_chi2", e, table(0.0), 10.0).sum(), e)
    torch.testing.assert_close(slope, table(-0.2707, -0.3033, 0.0, 0.5, 2.0), atol=5e-5, rtol=0)


def test_gradient_of_the_multiplier() -> None:
    """1 - mean (r(x) + x r'(x))."""
    e, multiplier = table(-20.0, -5.0, 3.0, 20.0), table(1.5).requires_grad_()
    loss = regression("soft_chi2", e, multiplier, 10.0).mean() + multiplier.sum()
    (slope,) = torch.autograd.grad(loss, multiplier)
    x = ((e - 1.5) / 10.0).requires_grad_()
    (r,) = torch.autograd.grad(ratio("soft_chi2", x).sum(), x)
    expected = 1 - (ratio("soft_chi2", x) + x * r).mean()
    torch.testing.assert_close(slope, expected.view(1).detach())


def test_constant_values_give_weight_one_each() -> None:
    algorithm = learner(lr=1e-12)
    for network in (algorithm.q, algorithm.target_q):
        set_table(network.networks.members, [[3.0, 3.0], [3.0, 3.0]])
    set_table(algorithm.nu.network, [[3.0], [3.0]])
    batch = transitions([[0, 1], [1, 1]], actions=2, first=torch.ones(2))
    obs = torch.cat((batch.obs, torch.eye(2).double().expand(1, 2, 2, 2)), -1)
    with torch.no_grad():
        cloning = -algorithm.data_log_prob(algorithm.actor.network(obs), batch).mean((1, 2))
    found = algorithm.update(batch)
    torch.testing.assert_close(found["weight/omega"], table(1.0))
    torch.testing.assert_close(found["policy/loss"], 2 * cloning)


def test_only_first_steps_enter_the_initial_term() -> None:
    losses = []
    for first in ([1.0, 0.0], [0.0, 1.0], [0.0, 0.0]):
        algorithm = learner()
        for mixer in (algorithm.mixer, algorithm.target_mixer):
            set_mixer(mixer, (1.0, 1.0), 0.0)
        batch = transitions([[0, 1], [1, 1]], actions=2, first=first)
        obs = torch.cat((batch.obs, torch.eye(2).double().expand(1, 2, 2, 2)), -1)
        with torch.no_grad():
            nu = algorithm.nu(obs).mean(-1)[0]
        losses.append(algorithm.update(batch)["nu/loss"])
    torch.testing.assert_close(losses[0] - losses[2], 0.01 * nu[:1])
    torch.testing.assert_close(losses[1] - losses[2], 0.01 * nu[1:])


def test_omega_cap() -> None:
    algorithm = learner(omega_cap=2.0, alpha=0.1)
    set_table(algorithm.target_q.networks.members, [[50.0, 50.0], [50.0, 50.0]])
    set_mixer(algorithm.target_mixer, (1.0, 1.0), 0.0)
    batch = transitions([[0, 1]], actions=2, first=torch.ones(1))
    obs = torch.cat((batch.obs, torch.eye(2).double().expand(1, 1, 2, 2)), -1)
    with torch.no_grad():
        cloning = -algorithm.data_log_prob(algorithm.actor.network(obs), batch).mean((1, 2))
    torch.testing.assert_close(algorithm.update(batch)["policy/loss"], 4 * cloning)


def test_agents_that_change_places_change_no_loss() -> None:
    """Together with their numbers, and with a mixer that weighs them alike."""
    found = []
    for order in ([0, 1], [1, 0]):
        algorithm = learner()
        for mixer in (algorithm.mixer, algorithm.target_mixer):
            set_mixer(mixer, (0.5, 0.5), 0.1)
        batch = transitions([[0, 1], [1, 1]], actions=2, reward=[1.0, -0.5], first=torch.tensor([1.0, 0.0]))
        for name in ("obs", "next_obs", "action"):
            setattr(batch, name, getattr(batch, name)[:, :, order])
        with torch.no_grad():
            for part in ("actor", "q", "target_q", "nu", "target_nu"):
                first = next(p for p in getattr(algorithm, part).parameters() if p.shape[-2] == 2 + 2)
                first[..., 2:, :] = first[..., 2:, :][..., order, :]
        found.append(algorithm.update(batch))
    for name in ("q/loss", "nu/loss", "policy/loss", "weight/omega"):
        torch.testing.assert_close(found[0][name], found[1][name], msg=name)
