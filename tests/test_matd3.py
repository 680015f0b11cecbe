"""MATD3: target and gradients by hand, exploration, and that it learns."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from marlzoo.baselines.matd3 import MATD3

import marlzoo
from marlzoo.batch import Batch
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.evaluation import evaluate
from marlzoo.training.online import train_online
from tests.guess import Guess
from tests.toys import toy_spec


def make(**settings: Any) -> MATD3:
    small: dict[str, Any] = {"hidden": 16, "batch_size": 12, "n_step": 3, "gamma": 0.9}
    learner = marlzoo.make("matd3", toy_spec(), seeds=(0, 1), dtype=torch.float64, **{**small, **settings})
    return cast(MATD3, learner)


def batch(learner: MATD3) -> Batch:
    """Sequences of one, two and three steps; every other one ends at a terminal state."""
    source, b, steps = torch.Generator().manual_seed(0), 12, learner.config.n_step
    lengths = torch.arange(b) % steps + 1
    filled = (torch.arange(steps) < lengths.unsqueeze(-1)).double().expand(2, b, steps)
    mask = 1.0 - (torch.arange(b) % 2).double().view(1, b, 1) * (
        torch.arange(steps) >= lengths.view(b, 1) - 1
    )

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(2, b, *shape, generator=source, dtype=torch.float64)

    return Batch.of(
        {"target": normal(3, 2)},
        obs=normal(steps + 1, 3, 5),
        state=normal(steps + 1, 7),
        action=normal(steps, 3, 2).clamp(-1, 1),
        reward=normal(steps),
        mask=mask.expand(2, b, steps),
        filled=filled,
    )


def test_returns_and_discount_by_hand() -> None:
    learner = make()
    x = batch(learner)
    for r in range(2):
        for b in range(12):
            length = b % 3 + 1
            total = sum(0.9**k * x.reward[r, b, k].item() for k in range(length))
            assert learner.returns(x)[r, b].item() == pytest.approx(total)
            expected = 0.0 if b % 2 else 0.9**length
            assert learner.discount(x)[r, b].item() == pytest.approx(expected)


def test_target_takes_the_smaller_critic_at_a_noisy_action() -> None:
    learner = make(smoothing_sigma=10.0, smoothing_clip=0.5)
    x = batch(learner)
    final = x.obs[:, :, -1]
    action = torch.tanh(learner.target_actor.rows(final))
    noisy = (action + (10 * x.noise["target"]).clamp(-0.5, 0.5)).clamp(-1, 1) * learner.action_dimensions
    twins = learner.target_q(final, x.state[:, :, -1], noisy)[..., 0]
    y = learner.returns(x) + learner.discount(x) * torch.minimum(twins[:, 0], twins[:, 1])
    torch.testing.assert_close(learner.update(x)["critic/target"], y.mean(1).detach())
    assert (twins[:, 0] > twins[:, 1]).any()
    assert (twins[:, 0] < twins[:, 1]).any()


def test_policies_ascend_as_if_each_moved_alone() -> None:
    """One loss of all present actions has the gradient of n losses with the others' actions held."""
    learner = make()
    x, used = batch(learner), learner.action_dimensions
    obs, state, parameters = x.obs[:, :, 0], x.state[:, :, 0], list(learner.actor.parameters())
    action = torch.tanh(learner.actor.rows(obs)) * used
    together = torch.autograd.grad(learner.q.first(obs, state, action)[..., 0].sum(), parameters)
    alone = [torch.zeros_like(p) for p in parameters]
    for agent in range(3):
        held = action.detach().clone()
        mine = torch.tanh(learner.actor.rows(obs)) * used
        held = torch.cat((held[:, :, :agent], mine[:, :, agent : agent + 1], held[:, :, agent + 1 :]), dim=2)
        own = torch.autograd.grad(learner.q.first(obs, state, held)[..., 0].sum(), parameters)
        alone = [a + g for a, g in zip(alone, own, strict=True)]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_the_policy_waits_for_the_critic() -> None:
    learner = make(policy_delay=2)
    before = [p.detach().clone() for p in learner.actor.parameters()]
    learner.update(batch(learner))
    assert all(torch.equal(p, old) for p, old in zip(learner.actor.parameters(), before, strict=True))
    learner.update(batch(learner))
    assert not any(torch.equal(p, old) for p, old in zip(learner.actor.parameters(), before, strict=True))


def test_exploration() -> None:
    """Uniform at first, then around the policy's action; padding stays zero."""
    learner = make(warmup=1000, noise=0.2)
    obs, fresh = torch.zeros(2, 4000, 3, 5).double(), torch.zeros(2, 4000).bool()
    random = ReplicaRandom([0, 1], "x", dtype=torch.float64)
    first = learner.explore(obs, None, random, fresh)
    assert first.abs().max() <= 1
    assert first[:, :, 0].std().item() == pytest.approx(3**-0.5, abs=0.02)
    learner.updates = 1  # 20 copies * 50 steps
    with torch.no_grad():
        later, mean = learner.explore(obs, None, random, fresh), learner.policy().act(obs)
    assert (later - mean)[:, :, 0].std().item() == pytest.approx(0.2, abs=0.01)
    for action in (first, later):
        assert not action[:, :, 1, 1].any()


def test_learns_the_optimum() -> None:
    env = Guess(16, "continuous")
    sizes: dict[str, Any] = {"num_envs": 16, "rollout": 10, "batch_size": 64, "hidden": 32, "learn_steps": 10}
    learner = marlzoo.make("matd3", env.spec, seeds=[0], lr=3e-3, warmup=320, n_step=1, **sizes)
    train_online(learner, env, steps=160 * 45)
    assert evaluate(learner.policy(), Guess(64, "continuous"), seeds=[1]).returns.mean() > 4.9


def test_policies_may_follow_the_critic_at_the_others_replayed_actions() -> None:
    """As HARL has it: agent i's gradient is that of Q_1 at its own present action beside the replay's others."""
    learner = make(other_actions="replay", action_penalty=0.0, policy_delay=1)
    x = batch(learner)
    caught: dict[str, torch.Tensor] = {}
    learner.step_if = lambda _, **losses: caught.update(losses) or {}  # type: ignore[method-assign]
    learner.update(x)
    used, obs, state = learner.action_dimensions, x.obs[:, :, 0], x.state[:, :, 0]
    action = torch.tanh(learner.actor.rows(obs)) * used
    expected = torch.zeros(2, dtype=torch.float64)
    for agent in range(3):
        team = x.action[:, :, 0].clone()
        team[:, :, agent] = action[:, :, agent]
        expected = expected - learner.q.first(obs, state, team)[..., 0].mean(1)
    torch.testing.assert_close(caught["policy"], expected)
