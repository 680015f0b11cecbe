"""Data actions on the box's bounds as censored observations (``bound_margin``)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from marlzoo.algorithms.omiga import OMIGAConfig
from scipy.stats import norm
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch
from marlzoo.modules.policies import tanh_gaussian_log_prob
from marlzoo.spec import Spec

SPEC = Spec(n_agents=2, obs_size=3, state_size=4, action_kind="continuous", action_size=1, horizon=10)


def log_prob(mean: float, std: float, action: Any, margin: float | None) -> Tensor:
    a = torch.as_tensor(action, dtype=torch.float64).unsqueeze(-1)
    parts = (torch.full_like(a, mean), torch.full_like(a, math.log(std)), a)
    return tanh_gaussian_log_prob(*parts, margin=None if margin is None else torch.tensor(margin).double())


def test_tails_by_hand() -> None:
    """``log Phi`` of the distance to the threshold, on either side and for actions outside the box."""
    edge = math.atanh(0.9)
    found = log_prob(0.3, 0.5, [0.9, 1.0, 1.5, -0.95, -1.0], 0.1)
    above, below = norm.logsf(edge, 0.3, 0.5), norm.logcdf(-edge, 0.3, 0.5)
    np.testing.assert_allclose(found, [above, above, above, below, below], rtol=1e-6)
    assert log_prob(0.3, 0.5, [0.8], 0.1) == log_prob(0.3, 0.5, [0.8], None)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.4, 0.3), (-3.0, 0.8)])
def test_everything_that_may_be_seen_has_probability_one(mean: float, std: float) -> None:
    inside = np.linspace(-0.95, 0.95, 200_001)[1:-1]
    density = np.trapezoid(log_prob(mean, std, inside, 0.05).exp(), inside)
    tails = log_prob(mean, std, [-1.0, 1.0], 0.05).exp().sum().item()
    assert density + tails == pytest.approx(1.0, abs=1e-4)


def test_a_mean_beyond_the_bound_is_left_alone() -> None:
    """Where clamping pulls the mean towards 8.4, a censored action is content with any mean far enough outside."""
    gradients = {}
    for margin in (0.0, 0.05):
        mean = torch.tensor([[5.0]], requires_grad=True)
        parts = (mean, torch.full((1, 1), -1.0), torch.ones(1, 1), None, torch.tensor(margin))
        (gradients[margin],) = torch.autograd.grad(tanh_gaussian_log_prob(*parts).sum(), mean)
    assert gradients[0.0].item() > 10
    assert gradients[0.05].abs().item() < 1e-6


def batch(replicas: int) -> Batch:
    g = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(1, 8, *shape, generator=g).expand(replicas, 8, *shape)

    fields = {"obs": drawn(2, 3), "next_obs": drawn(2, 3), "state": drawn(4), "next_state": drawn(4)}
    flags = {"reward": drawn(), "mask": torch.ones(replicas, 8)}
    return Batch.of(action=drawn(2, 1).clamp(-1.0, 1.0), **fields, **flags)


@pytest.mark.parametrize("name", ["omiga", "bc"])
def test_replicas_with_and_without_it(name: str) -> None:
    """A margin of 0 beside others is what a learner without the setting does; another one changes the policy."""
    settings: dict[str, Any] = {"hidden": 8, "seeds": [3, 3]}
    both = marlzoo.make(name, SPEC, **settings, bound_margin=[0.0, 0.1])
    plain = marlzoo.make(name, SPEC, **settings)
    for _ in range(3):
        both.update(batch(2))
        plain.update(batch(2))
    pairs = list(zip(both.actor.parameters(), plain.actor.parameters(), strict=True))
    assert all(torch.equal(mine[0], theirs[0]) for mine, theirs in pairs)
    assert not all(torch.allclose(mine[1], theirs[0], atol=1e-5) for mine, theirs in pairs)


def test_recorded_configurations_stay_what_they_are() -> None:
    """The setting came after results: unless it is used, hash and stored values do not show it."""
    assert OMIGAConfig().hash == "ddf9c41a3440"
    assert "bound_margin" not in OMIGAConfig().to_dict()
    used = OMIGAConfig(bound_margin=0.05)
    assert used.hash != OMIGAConfig().hash
    assert used.to_dict()["bound_margin"] == 0.05
