"""What is drawn at random has the distribution that it is said to have: initial weights, and policies' actions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest, norm, uniform
from torch import Tensor

from marlzoo.modules.layers import GRU, Linear
from marlzoo.modules.policies import (
    LOG_STD_BOUNDS,
    EpsilonGreedyPolicy,
    Policy,
    TanhGaussianActor,
    TanhGaussianPolicy,
    gaussian_heads,
    select_action,
)
from marlzoo.objectives import straight_through
from marlzoo.replicas import Init, ReplicaRandom

LIKELY = 1e-4  # p values below it are taken for a fault; what is drawn is the same in every run


def of_box(values: Tensor, bound: float) -> float:
    """P value of numbers as uniform ones on (-bound, bound)."""
    return float(kstest(values.detach().flatten().numpy(), uniform(-bound, 2 * bound).cdf).pvalue)


def test_layers_start_like_torchs() -> None:
    """Weights and biases uniform, by the inputs' number; a memory's by its own size; all networks independent."""
    linear = Linear(Init([0, 1]), 25, 400, stack=(3,))
    memory = GRU(Init([0, 1]), 50, 16)
    for parameter, bound in (
        (linear.weight, 0.2),
        (linear.bias, 0.2),
        *((p, 0.25) for p in memory.parameters()),
    ):
        assert of_box(parameter, bound) > LIKELY
        assert 0.9 * bound < parameter.abs().max() < bound
    members = linear.weight.detach().reshape(6, -1).numpy()
    assert np.abs(np.corrcoef(members) - np.eye(6)).max() < 5 / math.sqrt(members.shape[1])


def test_orthogonal_starts_prefer_no_direction() -> None:
    """Every entry of a random rotation of three axes has mean 0 and mean square 1/3."""
    drawn = Init([3], dtype=torch.float64).orthogonal(1.0, 3000, 3, 3).detach()
    mean_square = drawn.square().mean((0, 1))
    assert drawn.mean((0, 1)).abs().max() < 5 / math.sqrt(3 * 3000)
    torch.testing.assert_close(mean_square, torch.full_like(mean_square, 1 / 3), atol=0.03, rtol=0)


def test_exploring_agents_take_every_legal_action_equally_often() -> None:
    """Each agent on its own, and whatever the number that decided on exploring was."""
    values, legal = torch.tensor([1.0, 9.0, 3.0, 2.0]), torch.tensor([True, False, True, True])
    policy = EpsilonGreedyPolicy(
        lambda x: values.expand(*x.shape[:-1], 4), lambda: torch.full((2, 1, 1), 0.3)
    )  # type: ignore[arg-type]
    obs, mask = torch.zeros(2, 20_000, 3, 1), legal.expand(2, 20_000, 3, 4)
    assert (policy.act(obs, mask) == 2).all()
    taken = policy.act(obs, mask, ReplicaRandom([1, 2], "explore"))
    shares = np.array([0.1, 0.0, 0.8, 0.1])
    for each in taken.movedim(1, 2).flatten(0, 1):
        found = torch.bincount(each, minlength=4).numpy()
        assert found[1] == 0
        assert chisquare(found[shares > 0], 20_000 * shares[shares > 0]).pvalue > LIKELY
    for first, second in ((taken[0, :, 0], taken[0, :, 1]), (taken[0, :, 0], taken[1, :, 0])):
        pairs = torch.bincount(first * 4 + second, minlength=16).numpy()
        expected = 20_000 * np.outer(shares, shares).flatten()
        assert chisquare(pairs[expected > 0], expected[expected > 0]).pvalue > LIKELY


class Heads(TanhGaussianActor):
    """Mean 0.3 and log standard deviation -1 in every state, in one tensor."""

    def __init__(self) -> None:
        super().__init__(Init([0, 1]), 2, 4, 1)

    def forward(self, *parts: Tensor) -> Tensor:  # type: ignore[override]
        return torch.tensor([0.3, -1.0]).expand(*parts[0].shape[:-1], 2)


@pytest.mark.parametrize("selected", [False, True])
def test_gaussian_policies_sample_their_own_deviation(selected: bool) -> None:
    policy: Policy = TanhGaussianPolicy(Heads())
    obs, random = torch.zeros(2, 5000, 2, 1), ReplicaRandom([1, 2], "act")
    if selected:
        heads = gaussian_heads(Heads()(torch.zeros(2, 5000, 2, 1)))
        drawn = select_action(heads, torch.ones(2, 1), None, random)
    else:
        drawn = policy.act(obs, None, random)
    before = torch.atanh(drawn.double())[..., 0]  # [R, E, N]
    for each in before.movedim(1, 2).flatten(0, 1):
        assert kstest(each.numpy(), norm(0.3, math.exp(-1.0)).cdf).pvalue > LIKELY
    apart = np.corrcoef(before.movedim(1, 2).reshape(4, -1).numpy()) - np.eye(4)
    assert np.abs(apart).max() < 5 / math.sqrt(5000)


def test_log_deviations_are_bounded_in_both_forms() -> None:
    """The bounds are the network's own where it has two heads, and those that are named where one tensor is split."""
    actor = TanhGaussianActor(Init([0]), 3, 8, 2, log_std_bounds=(-0.01, 0.02))
    found = actor(100 * torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0)))[1].detach()
    assert (float(found.min()), float(found.max())) == pytest.approx((-0.01, 0.02))
    output = torch.tensor([1.0, 2.0, -50.0, 50.0])
    for bounds in (LOG_STD_BOUNDS, (-1.0, 1.0)):
        mean, log_std = gaussian_heads(output, bounds)
        assert mean.tolist() == [1.0, 2.0]
        assert log_std.tolist() == list(bounds)


def test_straight_through_samples_the_softmax_and_has_its_gradient() -> None:
    legal = torch.tensor([True, False, True, True])
    logits = (
        torch.tensor([1.0, 4.0, 0.0, -1.0], dtype=torch.float64).expand(20_000, 4).clone().requires_grad_()
    )
    drawn = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sample = straight_through(logits, legal.expand(20_000, 4), drawn)
    share = torch.softmax(logits[0, legal], -1).detach().numpy()
    found = sample.detach().sum(0).round().numpy()
    assert found[1] == 0
    assert chisquare(found[legal.numpy()], 20_000 * share).pvalue > LIKELY
    weight = torch.tensor([1.0, 5.0, -2.0, 0.5], dtype=torch.float64)
    (slope,) = torch.autograd.grad((sample * weight).sum(), logits)
    soft = torch.exp(logits.detach()) / -torch.log(drawn) * legal  # exp(logit + Gumbel noise)
    soft = soft / soft.sum(-1, keepdim=True)
    torch.testing.assert_close(slope, soft * (weight - (soft * weight).sum(-1, keepdim=True)))
