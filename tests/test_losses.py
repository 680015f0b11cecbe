"""Shared loss terms against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from marlzoo.algorithms.omar import cross_entropy_search, softmax_moments, softmax_search
from torch import Tensor

from marlzoo.batch import Batch
from marlzoo.modules.critics import best_of
from marlzoo.modules.policies import smoothed_action
from marlzoo.objectives import (
    action_error,
    action_size,
    all_replacements,
    double_q,
    effective_sample_size,
    expectile,
    exponent_quantiles,
    exponential_weights,
    gaussian_kl,
    masked_logsumexp,
    mean_over,
    normal_log_density,
    normalized_advantage,
    partial_replacement,
    penalty_samples,
    sampled_logsumexp,
    saturation,
    soft_backup,
    soft_minimum,
    softmax_weights,
    team_targets,
    uniform_log_density,
    value_scale,
)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(a: Tensor, b: Tensor | float, atol: float = 1e-6) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype).expand_as(a), atol=atol, rtol=0)


def test_mean_over_leaves_padding_out_even_if_it_is_nan() -> None:
    x = torch.tensor([[[[1.0, 3.0], [math.nan, math.nan]]]])  # R, B, L, N
    close(mean_over(x, torch.tensor([[[1.0, 0.0]]])), 2.0)
    close(mean_over(torch.tensor([[1.0, 2.0], [3.0, 5.0]])), f64(1.5, 4.0))


def test_expectile() -> None:
    close(expectile(f64(-2, 3), 0.7), f64(0.3 * 4, 0.7 * 9))
    close(expectile(f64(-2, 3), 0.5), f64(2, 4.5))


def test_weights() -> None:
    for cap in (100.0, f64(100.0)):
        close(exponential_weights(f64(0, 2, 5000), 2.0, cap), f64(1, math.e, 100))
    close(softmax_weights(f64(0.1, 0, 0, 0).unsqueeze(0), 0.1), f64(1.9015, 0.6995, 0.6995, 0.6995), 1e-4)
    assert not exponential_weights(f64(1).requires_grad_(), 1.0, 9.0).requires_grad
    scaled = normalized_advantage(torch.tensor([[1.0, 2, 3], [10, 20, 30]], dtype=torch.float64))
    close(scaled, torch.tensor([[-1.0, 0, 1], [-1, 0, 1]]))


def test_densities() -> None:
    close(uniform_log_density(torch.ones(2, dtype=torch.float64)), -1.386294)
    close(uniform_log_density(f64(1, 1, 0)), -1.386294)
    close(normal_log_density(f64(0), 0.2), 0.690499)
    close(normal_log_density(f64(0, 0, 0), 0.2), 2.071498)
    close(normal_log_density(f64(0, 7), 0.2, f64(1, 0)), 0.690499)


def test_sampled_logsumexp_of_a_constant() -> None:
    q = torch.full((1, 10), 3.0, dtype=torch.float64)
    close(sampled_logsumexp(q) - 3, 2.302585)
    close(sampled_logsumexp(q, torch.full_like(q, -2 * math.log(2))) - 3, 3.688879)
    close(sampled_logsumexp(q, temperature=0.5) - 3, 0.5 * math.log(10))
    noisy = torch.full((1, 20), 1.380999, dtype=torch.float64)
    density = torch.cat((torch.full((1, 10), -2 * math.log(2), dtype=torch.float64), noisy), 1)
    close(sampled_logsumexp(torch.zeros_like(density), density), 3.807252, 2e-6)


def test_penalty_samples_are_uniform_or_around_the_policys_actions() -> None:
    """Half of the latter around those at o, half around those at o'; densities are of the noise before clipping."""
    used = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    source = torch.Generator().manual_seed(0)
    now, after = torch.rand(2, 1, 3, 2, 2, generator=source, dtype=torch.float64)
    uniform = torch.rand(1, 4, 3, 2, 2, generator=source, dtype=torch.float64)
    normal = torch.randn(1, 2, 4, 3, 2, 2, generator=source, dtype=torch.float64)
    actions, density = penalty_samples(now, after, uniform, normal, f64(0.5), used)
    assert (actions.shape, density.shape) == ((1, 12, 3, 2, 2), (1, 12, 3, 2))
    close(actions[:, :4], (2.0 * uniform - 1.0) * used)
    close(density[:, :4], f64(-2.0 * math.log(2.0), -math.log(2.0)).expand(1, 4, 3, 2))
    for first, center, noise in ((4, now, normal[:, 0]), (8, after, normal[:, 1])):
        part = slice(first, first + 4)
        close(actions[:, part], (center.unsqueeze(1) + 0.5 * noise).clamp(-1.0, 1.0) * used)
        log_p = -0.5 * noise.square() - math.log(0.5) - 0.5 * math.log(2.0 * math.pi)
        close(density[:, part], (log_p * used).sum(-1))
    alone = penalty_samples(now, after, uniform, None, f64(0.5), used)
    close(alone[0], actions[:, :4])
    close(alone[1], density[:, :4])


class Given:
    """A team whose values are given, without or with a mixer that adds them to a number of the state."""

    def __init__(self, every: Tensor, mixer: Any = None) -> None:
        self.every, self.mixer = every, mixer

    def __call__(self, batch: Batch) -> Tensor:
        return self.every

    def total(self, values: Tensor, state: Tensor | None) -> Tensor:
        return values if state is None else values.sum(-1) + state[..., 0]


def test_team_targets_without_and_with_a_mixer() -> None:
    """One episode of two steps that ends in a terminal one; two agents with two actions."""
    every = f64(0, 1, 5, 4, 2, 3, 1, 0, 7, 6, 8, 9).view(1, 1, 3, 2, 2)
    target = f64(1, 2, 3, 4, 10, 20, 30, 40, 9, 9, 9, 9).view(1, 1, 3, 2, 2)
    batch = Batch.of(
        action=torch.tensor([[[[0, 1], [1, 1]]]]),
        action_mask=torch.ones(1, 1, 3, 2, 2, dtype=torch.bool),
        agent_reward=f64(1, 2, 3, 4).view(1, 1, 2, 2),
        reward=f64(1.5, 3.5).view(1, 1, 2),
        state=f64(100, 200, 300).view(1, 1, 3, 1),
        mask=f64(1, 0).view(1, 1, 2),
        filled=f64(1, 1).view(1, 1, 2),
    )
    gamma = f64(0.5).view(1, 1, 1)
    teams: list[Any] = [Given(every), Given(target)]
    found = team_targets(*teams, batch, gamma)
    close(found.total, f64(0, 4, 3, 0).view(1, 1, 2, 2))
    close(found.target, f64(1 + 0.5 * 20, 2 + 0.5 * 30, 3, 4).view(1, 1, 2, 2))
    teams = [Given(every, True), Given(target, True)]
    found = team_targets(*teams, batch, gamma)
    close(found.total, f64(104, 203).view(1, 1, 2))
    close(found.target, f64(1.5 + 0.5 * (20 + 30 + 200), 3.5).view(1, 1, 2))


class Weighted(Given):
    """A team with a mixer of its own: the sum of the values times a number, whatever the state."""

    def __init__(self, every: Tensor, weight: float) -> None:
        super().__init__(every, mixer=True)
        self.weight = weight

    def total(self, values: Tensor, state: Tensor | None) -> Tensor:
        return self.weight * values.sum(-1)


@pytest.mark.parametrize("trace", [None, 0.0])
def test_team_targets_with_the_data_s_next_action_for_some_agents(trace: float | None) -> None:
    """A sequence of two steps, cut off, and a padded one: only its first step's next action is known.

    Next actions are chosen by the team, valued by the target team, and mixed by the target team's own mixer.
    """
    every = f64(0, 1, 5, 4, 2, 3, 0, 1, 7, 6, 8, 9, 0, 0, 0, 0).view(1, 1, 4, 2, 2)
    target = f64(1, 2, 3, 4, 20, 10, 30, 40, 9, 9, 9, 9, 0, 0, 0, 0).view(1, 1, 4, 2, 2)
    batch = Batch.of(
        action=torch.tensor([[[[0, 1], [0, 0], [0, 0]]]]),
        action_mask=torch.ones(1, 1, 4, 2, 2, dtype=torch.bool),
        reward=f64(1.5, 3.5, 0).view(1, 1, 3),
        state=f64(100, 200, 300, 0).view(1, 1, 4, 1),
        mask=f64(1, 1, 1).view(1, 1, 3),
        filled=f64(1, 1, 0).view(1, 1, 3),
    )
    gamma = f64(0.5).view(1, 1, 1)
    learning, following = Weighted(every, 1.0), Weighted(target, 10.0)
    options: dict[str, Any] = {"trace": None if trace is None else f64(trace).view(1, 1, 1)}
    for replaced, values in (((True, True), 10 + 40), ((True, False), 10 + 30), ((False, False), 20 + 30)):
        found = team_targets(
            learning, following, batch, gamma, replaced=torch.tensor(replaced).view(1, 1, 1, 2), **options
        )
        close(found.total[..., :2], f64(0 + 4, 2 + 0).view(1, 1, 2))
        assert found.counted.tolist() == [[[1.0, 0.0, 0.0]]]
        close(found.target[..., 0], 1.5 + 0.5 * 10 * values)
    assert team_targets(learning, following, batch, gamma, **options).counted.tolist() == [[[1.0, 1.0, 0.0]]]


def test_padded_action_dimensions_have_no_share() -> None:
    """Of agents with one and with two dimensions: means and shares are over those that an agent has."""
    used = f64(1, 0, 1, 1).view(2, 2)
    action = f64(0.5, 7, 1, -3).view(1, 1, 2, 2)
    close(action_size(action, used), f64(0.25, (1 + 9) / 2).view(1, 1, 2))
    close(action_error(action, f64(0, 0, 1, 1).view(1, 1, 2, 2), used), f64(0.25, 16 / 2).view(1, 1, 2))
    close(saturation(f64(0.2, 1, 1, -0.995).view(1, 1, 2, 2), used)["policy/saturation"], f64(2 / 3))


def test_diagnostics_of_weights_leave_padding_out() -> None:
    """Quantiles are numpy's (linear interpolation), and the effective sample size is Kish's, of the real steps."""
    source = torch.Generator().manual_seed(0)
    values = torch.randn(2, 5, 4, 3, generator=source, dtype=torch.float64)
    filled = (torch.rand(2, 5, 4, generator=source) < 0.6).double()
    found = exponent_quantiles(values, filled) | effective_sample_size(values.exp(), filled)
    for replica in range(2):
        real = values[replica][filled[replica] > 0]  # [steps, N]
        for percent in (50, 90, 99):
            close(found[f"weight/exponent_q{percent}"][replica], float(np.percentile(real.numpy(), percent)))
        weight = real.exp()
        kish = weight.sum(0).square() / (len(weight) * weight.square().sum(0))
        close(found["weight/ess"][replica], float(kish.mean()))


def test_discrete_terms_ignore_illegal_actions() -> None:
    q, action_mask = f64(1, 2, 100).unsqueeze(0), torch.tensor([[True, True, False]])
    close(masked_logsumexp(q, action_mask), math.log(math.e + math.e**2))
    close(double_q(f64(1, 2, 5), f64(10, 20, 30), torch.tensor([True, True, False])), 20.0)
    close(double_q(f64(2, 1, 5), f64(10, 20, 30), torch.tensor([True, True, False])), 10.0)
    close(double_q(f64(2, 1, 5), f64(10, 20, 30)), 30.0)


def test_soft_minimum() -> None:
    q = f64(2, 5).view(1, 2, 1)
    for weight, expected in ((0.75, 2.75), (1.0, 2.0), (0.5, 3.5)):
        close(soft_minimum(q, weight), expected)


def test_target_noise_is_clipped_and_stays_in_the_box() -> None:
    noise = f64(-1.2, 0.1, 0.8)
    close(smoothed_action(torch.zeros(3, dtype=torch.float64), noise, 0.2, f64(0.5)), f64(-0.24, 0.02, 0.16))
    close(smoothed_action(torch.zeros(3, dtype=torch.float64), noise, 1.0, f64(0.5)), f64(-0.5, 0.1, 0.5))
    close(smoothed_action(f64(0.9, 0.9, 0.9), noise, 1.0), f64(-0.3, 1.0, 1.0))


def test_gaussian_kl() -> None:
    kl = gaussian_kl(f64(1, 0), f64(0, math.log(2)))
    close(kl.mean(), 0.653427)
    close(kl.sum(), 1.306853)
    close(gaussian_kl(f64(0), f64(0)), 0.0)


def test_softmax_moments() -> None:
    candidates, score = f64(-1, 0, 1).view(1, 3, 1), f64(0, 1, 2).view(1, 3)
    for shift in (0.0, 100.0):
        mean, spread = softmax_moments(candidates, score + shift)
        close(mean, 0.575210)
        close(spread, 0.998766)
    close(softmax_moments(candidates, torch.zeros(1, 3, dtype=torch.float64))[0], 0.0)


def test_best_of_keeps_rows_and_agents_apart() -> None:
    candidates = torch.arange(24, dtype=torch.float64).view(1, 2, 2, 3, 2)  # R, K, B, N, A
    score = torch.zeros(1, 2, 2, 3)
    score[0, 1, 0, 2] = 1.0
    best = best_of(candidates, score)
    assert torch.equal(best[0, 0, 2], candidates[0, 1, 0, 2])
    assert torch.equal(best[0, 1], candidates[0, 0, 1])


def test_searches_find_the_peak_of_a_parabola() -> None:
    noise = torch.randn((1, 3, 20, 50, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def score(a: Tensor) -> Tensor:
        return -(a.squeeze(-1) - 0.5).square()

    for found, value in (cross_entropy_search(score, noise, elites=5), softmax_search(score, noise)):
        assert torch.equal(value, score(found))
        assert found.shape == (1, 50, 1)
        assert float((found - 0.5).abs().mean()) < 0.1
    first = best_of((2 * noise[:, 0]).clamp(-1, 1), score((2 * noise[:, 0]).clamp(-1, 1)))
    assert bool((cross_entropy_search(score, noise, elites=5)[1] >= score(first)).all())


def test_cross_entropy_search_uses_elite_mean_and_unbiased_spread() -> None:
    # Round 1 offers (.1, .2, .3, -1); with the elites (.1, .2, .3) and unit noise round 2 draws .2 + .1 = .3.
    noise = torch.tensor([[[0.05, 0.1, 0.15, -0.5], [1.0, 1.0, 1.0, 1.0]]], dtype=torch.float64).unsqueeze(-1)
    seen = []

    def score(a: Tensor) -> Tensor:
        seen.append(a)
        return a.squeeze(-1)

    cross_entropy_search(score, noise, elites=3, min_std=0.0)
    close(seen[1], 0.3)


def test_value_scale_by_hand() -> None:
    """Deviations of (1, 2, 3, 10) from their mean 4 average to 3; padding does not count."""
    value = torch.tensor([[[1.0, 2.0, 3.0, 10.0]], [[5.0, 5.0, 7.0, 99.0]]])
    filled = torch.tensor([[[1.0, 1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0, 0.0]]])
    expected = torch.tensor([3.0, 8 / 9])
    torch.testing.assert_close(value_scale(value, filled), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(value_scale(7.0 * value - 3.0, filled), 7.0 * expected, rtol=1e-5, atol=1e-5)


def test_partial_replacement_takes_the_agents_with_the_smallest_numbers() -> None:
    """Two agents and Q = [[1, 2], [3, 4]]: the data's (0, 0) is worth 1, the policy's (1, 1) 4, mixtures 3 and 2."""
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    policy, data, uniform = torch.ones(2, 2, 1), torch.zeros(2, 2, 1), torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    for replaced, values in ((0, [1.0, 1.0]), (1, [3.0, 2.0]), (2, [4.0, 4.0])):
        first, second = partial_replacement(policy, data, uniform, replaced).long().squeeze(-1).unbind(-1)
        assert q[first, second].tolist() == values


def test_all_numbers_of_replaced_agents_and_their_weights() -> None:
    """Equal disagreement: the plain mean. u = (1, 1, 2): weights exp(-.75), exp(-.75), exp(-1.5)."""
    policy, data = torch.ones(1, 4, 2, 1), torch.zeros(1, 4, 2, 1)
    uniform = torch.rand(1, 4, 2, generator=torch.Generator().manual_seed(0))
    every = all_replacements(policy, data, uniform)
    assert every.shape == (1, 3, 4, 2, 1)
    for replaced in range(3):
        assert torch.equal(every[:, replaced], partial_replacement(policy, data, uniform, replaced))
    low = torch.tensor([[1.0, 2.5, 4.0]], dtype=torch.float64)
    for apart, weights in (
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ((1.0, 1.0, 2.0), (math.exp(-0.75), math.exp(-0.75), math.exp(-1.5))),
    ):
        twins = torch.stack((low, low + torch.tensor([apart], dtype=torch.float64)), dim=1)
        expected = sum(w * float(v) for w, v in zip(weights, low[0], strict=True)) / sum(weights)
        assert soft_backup(twins).item() == pytest.approx(expected, rel=1e-12)


def test_one_replaced_agent_of_three_joint_actions_lands_on_the_data() -> None:
    """XOR with (A, A), (A, B), (B, A): from (A, B) the second agent's greedy B gives (A, B), not (B, B)."""
    data, policy = torch.tensor([[0.0], [1.0]]), torch.ones(2, 1)
    found = partial_replacement(policy, data, torch.tensor([0.9, 0.1]), 1)
    assert found.squeeze(-1).tolist() == [0.0, 1.0]


def test_of_three_agents_that_with_the_smallest_number_is_replaced() -> None:
    found = partial_replacement(torch.ones(3, 1), torch.zeros(3, 1), torch.tensor([0.5, 0.9, 0.1]), 1)
    assert found.squeeze(-1).tolist() == [0.0, 0.0, 1.0]


def test_every_agent_is_replaced_equally_often() -> None:
    uniform = torch.rand(4000, 5, generator=torch.Generator().manual_seed(0))
    share = partial_replacement(torch.ones(4000, 5, 1), torch.zeros(4000, 5, 1), uniform, 2).mean((0, 2))
    torch.testing.assert_close(share, torch.full((5,), 0.4), rtol=0, atol=0.03)


def test_softmax_weights_compare_samples_and_neither_steps_nor_agents() -> None:
    """A constant on all samples of one step, or of one agent, changes no weight; on one sample it does."""
    x = torch.randn(2, 6, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = softmax_weights(x, 0.5)
    close(weight.mean(1), 1.0)
    for place in ((slice(None), slice(None), 2), (slice(None), slice(None), slice(None), 1)):
        shifted = x.clone()
        shifted[place] += 5.0
        close(softmax_weights(shifted, 0.5), weight)
    shifted[:, 0] += 5.0
    assert bool((softmax_weights(shifted, 0.5)[:, 0] > weight[:, 0]).all())
