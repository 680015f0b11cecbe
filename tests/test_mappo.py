"""MAPPO and online training: formulas by hand, rollouts, resuming after a kill, and that it learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from marlzoo.baselines import _ppo
from marlzoo.baselines._ppo_networks import ValueNorm, huber
from marlzoo.baselines.mappo import MAPPO

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.batch import gae, take_rows
from marlzoo.errors import CheckpointError, ConfigError, SpecError
from marlzoo.replicas import Init, ReplicaRandom
from marlzoo.spec import ActionKind
from marlzoo.training.evaluation import evaluate
from marlzoo.training.online import Collector, train_online
from tests.guess import Guess
from tests.toys import ToyEnv, toy_spec

SMALL = {"hidden": 16, "num_envs": 6, "rollout": 8, "batch_size": 24, "epochs": 2, "restart": 3}


def make(seeds: Sequence[int] = (0,), kind: ActionKind = "continuous", **settings: Any) -> MAPPO:
    dtype = settings.pop("dtype", torch.float64)
    learner = marlzoo.make("mappo", toy_spec(kind), seeds=seeds, dtype=dtype, **{**SMALL, **settings})
    return cast(MAPPO, learner)


def toy_env(learner: Algorithm) -> ToyEnv:
    kind: ActionKind = "discrete" if learner.spec.discrete else "continuous"
    return ToyEnv(learner.replicas * 6, kind)


def assert_same(one: Algorithm, other: Algorithm) -> None:
    theirs = other.state_tensors()
    for key, value in one.state_tensors().items():
        assert torch.equal(value, theirs[key]), key


# ---- formulas --------------------------------------------------------------------------------------------


def advantages(mask: list[float], ends: list[float]) -> torch.Tensor:
    """The worked example of the specification: r = (1, 0, 2), V = (.5, .4, .3), V' = (.4, .3, .2)."""
    rows = [torch.tensor(x).double().view(1, 1, 3) for x in ([1, 0, 2], [0.5, 0.4, 0.3], [0.4, 0.3, 0.2])]
    flags = [torch.tensor(x).double().view(1, 1, 3) for x in (mask, ends)]
    rate = torch.tensor([[0.99]]).double()
    return gae(rows[0], rows[1], rows[2], flags[0], flags[1], rate, rate * 0 + 0.95)[0, 0]


def test_gae_bootstraps_at_a_time_limit_and_not_at_a_terminal_state() -> None:
    limit, terminal = advantages([1, 1, 1], [0, 0, 1]), advantages([1, 1, 0], [0, 0, 1])
    np.testing.assert_allclose(limit, [2.47799, 1.68207, 1.898], atol=1e-5)
    np.testing.assert_allclose(terminal, [2.30285, 1.49585, 1.7], atol=1e-5)


def test_gae_does_not_reach_over_an_episodes_end() -> None:
    found = advantages([1, 1, 1], [1, 0, 1])
    assert found[0] == pytest.approx(1 + 0.99 * 0.4 - 0.5)
    assert found[1:].tolist() == advantages([1, 1, 1], [0, 0, 1])[1:].tolist()


def test_value_norm_of_a_constant() -> None:
    norm = ValueNorm(Init([0, 1], dtype=torch.float64), torch.tensor([0.99999, 0.9]).double())
    assert norm.denormalize(torch.ones(2, 3).double()).tolist() == [[0.1] * 3] * 2  # the variance's floor
    for _ in range(50):
        norm.observe(torch.full((2, 7), 5.0).double())
    c = torch.full((2, 1), 5.0).double()
    torch.testing.assert_close(norm.normalize(c), torch.zeros_like(c), atol=1e-9, rtol=0)
    torch.testing.assert_close(norm.denormalize(torch.zeros_like(c)), c)


def test_value_norm_is_debiased_and_inverts() -> None:
    norm = ValueNorm(Init([0], dtype=torch.float64), torch.tensor([0.99999]).double())
    x = torch.tensor([[1.0, 5.0, 9.0, 5.0]]).double()
    norm.observe(x)
    mean, std = norm.mean_std(2)
    assert mean.item() == pytest.approx(5.0)
    assert std.item() == pytest.approx(math.sqrt(8.0))
    torch.testing.assert_close(norm.denormalize(norm.normalize(x)), x)


def test_initial_standard_deviation() -> None:
    learner = make(std_x=[1.0, 2.0], seeds=(0, 1))
    torch.testing.assert_close(learner.nets.actor.std(), torch.full((2, 3, 2), 0.36552929).double())
    with torch.no_grad():
        learner.nets.actor.raw_std.zero_()
    assert learner.nets.actor.std().unique().tolist() == [0.25]


def test_huber() -> None:
    found = huber(torch.tensor([[-1.0, 10.0, 12.0]]), torch.tensor([[10.0]]))
    assert found.tolist() == [[0.5, 50.0, 70.0]]


def test_orthogonal_start() -> None:
    net = make().nets.actor.net
    for layer, gain in ((net.first, math.sqrt(2.0)), (net.second, math.sqrt(2.0)), (net.out, 0.01)):
        weight = layer.weight[0].detach()
        small = weight.T @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.T
        torch.testing.assert_close(small, gain**2 * torch.eye(len(small)).double())
        assert not layer.bias.any()


def test_log_density_leaves_out_padding() -> None:
    learner = make()
    obs, action = torch.randn(1, 4, 3, 5).double(), torch.randn(1, 4, 3, 2).double()
    log_prob, entropy = learner.nets.actor.log_prob(obs, action, None)
    mean, std = learner.nets.actor.mean(obs), learner.nets.actor.std().unsqueeze(1)
    sizes = torch.tensor(toy_spec().action_sizes)
    used = (torch.arange(2) < sizes.unsqueeze(-1)).double()
    density = torch.exp(-0.5 * ((action - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    torch.testing.assert_close(log_prob, (density.log() * used).sum(-1))
    each = 0.5 * math.log(2 * math.pi * math.e * 0.36552929**2)
    torch.testing.assert_close(entropy[0, 0], each * sizes.double(), rtol=1e-6, atol=0)


def policy_gradient_batch(learner: MAPPO) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    obs, action = torch.randn(1, 9, 3, 5).double(), torch.randn(1, 9, 3, 2).double()
    log_prob, _ = learner.nets.actor.log_prob(obs, action, None)
    return {
        "obs": obs,
        "action": action,
        "log_prob": log_prob.detach(),
        "advantage": torch.randn(1, 9).double(),
    }


def test_policy_loss_by_hand() -> None:
    """With ratios of 1 the loss is -mean A; beyond the clip a sample's gradient is zero where A pushes on."""
    learner = make(clip=0.1)
    x = policy_gradient_batch(learner)
    torch.testing.assert_close(_ppo.policy_loss(learner, learner.nets, x), -x["advantage"].mean(1))
    x["log_prob"] = x["log_prob"] - math.log(1.5)  # every ratio is 1.5 now
    expected = -torch.where(x["advantage"] > 0, 1.1 * x["advantage"], 1.5 * x["advantage"]).mean(1)
    torch.testing.assert_close(_ppo.policy_loss(learner, learner.nets, x), expected)
    x["advantage"] = x["advantage"].abs()
    _ppo.policy_loss(learner, learner.nets, x).sum().backward()
    assert not learner.nets.actor.net.out.weight.grad.any()


def test_means_beyond_their_bound_cost_by_hand() -> None:
    """Means of 0.8 and -0.9, a bound of 0.5: squares 0.09 and 0.16, for the dimensions that an agent has."""
    plain, costly = make((0, 1)), make((0, 1), bound_weight=[0.0, 3.0], mean_bound=0.5)
    x = {
        name: value.repeat(2, *[1] * (value.ndim - 1))
        for name, value in policy_gradient_batch(make()).items()
    }
    losses = []
    for learner in (plain, costly):
        with torch.no_grad():
            learner.nets.actor.net.out.weight.zero_()
            learner.nets.actor.net.out.bias.copy_(torch.tensor([0.8, -0.9]))
        losses.append(_ppo.policy_loss(learner, learner.nets, x))
    cost = (losses[1] - losses[0]).tolist()
    sizes = toy_spec().action_sizes
    assert {1, 2} == set(sizes)
    assert cost[0] == 0.0
    assert cost[1] == pytest.approx(3.0 * sum(0.09 if size == 1 else 0.25 for size in sizes) / len(sizes))


def test_discrete_actions_have_no_means() -> None:
    spec = toy_spec("discrete")
    learners = [
        cast(MAPPO, marlzoo.make("mappo", spec, seeds=(0,), dtype=torch.float64, hidden=8, **more))
        for more in ({}, {"bound_weight": 3.0, "mean_bound": 1e-6})
    ]
    x = {
        "obs": torch.randn(1, 9, 3, spec.obs_size).double(),
        "action": torch.zeros(1, 9, 3).long(),
        "action_mask": torch.ones(1, 9, 3, spec.action_size).bool(),
        "log_prob": torch.zeros(1, 9, 3).double(),
        "advantage": torch.randn(1, 9).double(),
    }
    assert torch.equal(*(_ppo.policy_loss(each, each.nets, x) for each in learners))


def test_means_within_their_bound_cost_nothing() -> None:
    plain, costly = make(), make(bound_weight=3.0, mean_bound=0.5)
    x = policy_gradient_batch(plain)  # means near 0 at the start
    assert torch.equal(_ppo.policy_loss(plain, plain.nets, x), _ppo.policy_loss(costly, costly.nets, x))


def test_value_loss_takes_the_larger_of_plain_and_clipped() -> None:
    learner = make(clip=0.2)
    state = torch.randn(1, 3, 7).double()
    value = learner.nets.value(state).detach()
    x = {"state": state, "value": value - 1.0, "target": value}
    # plain error 0; clipped value is V - 1 + 0.2, whose error is 0.8
    assert _ppo.value_loss(learner, learner.nets, x).item() == pytest.approx(0.5 * 0.8**2)


def test_take_rows() -> None:
    x = torch.arange(12).view(2, 3, 2)
    rows = torch.tensor([[2, 0], [1, 1]])
    assert take_rows(x, rows).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


# ---- collecting ------------------------------------------------------------------------------------------


def test_rollout_holds_what_happened() -> None:
    learner = make((0, 1), rollout=30, batch_size=60, dtype=torch.float32)
    env = toy_env(learner)
    collector = Collector(learner, env)
    collector.restart(0)
    rollout = collector.collect(0.25)
    assert rollout.obs.shape == (2, 6, 30, 3, 5)
    assert rollout.action.shape == (2, 6, 30, 3, 2)
    assert rollout.reward.shape == rollout.mask.shape == rollout.ends.shape == (2, 6, 30)
    assert rollout.progress == 0.25
    assert rollout.noise["order"].shape == (2, 2, 180)
    assert rollout.mask.all(), "the toy task never ends by itself"
    going = rollout.ends[:, :, :-1] == 0
    assert torch.equal(rollout.next_obs[:, :, :-1][going], rollout.obs[:, :, 1:][going])
    over = ~going
    assert not torch.equal(rollout.next_obs[:, :, :-1][over], rollout.obs[:, :, 1:][over])
    executed, target = rollout.action.clamp(-1, 1), rollout.obs[..., :2]
    torch.testing.assert_close(rollout.reward, -(executed - target).square().mean((-1, -2)))
    # Copies' first episodes are cut at 2, 4, ..., 12 of 12 steps; then each has the horizon's length.
    first = rollout.ends[0].argmax(-1)
    assert first.tolist() == [1, 3, 5, 7, 9, 11]
    assert {length for _, _, length in collector.finished} == {12}


def test_a_replicas_rollout_does_not_depend_on_its_neighbors() -> None:
    both, alone = make((3, 4)), make((4,))
    rollouts = []
    for learner in (both, alone):
        collector = Collector(learner, toy_env(learner))
        collector.restart(2)
        rollouts.append(collector.collect(0.0))
    for name in ("obs", "state", "action", "reward", "ends"):
        torch.testing.assert_close(
            getattr(rollouts[0], name)[1], getattr(rollouts[1], name)[0], rtol=1e-9, atol=1e-12
        )


def test_wrong_environment_is_named() -> None:
    learner = make()
    with pytest.raises(SpecError, match="need an environment of 6 copies, got 7"):
        Collector(learner, ToyEnv(7))
    with pytest.raises(SpecError, match="action_kind"):
        Collector(learner, ToyEnv(6, "discrete"))


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="batch_size 25 must divide"):
        make(batch_size=25)
    learner = make()
    with pytest.raises(ConfigError, match="steps"):
        train_online(learner, toy_env(learner), steps=0)
    offline = marlzoo.make("bc", toy_spec())
    with pytest.raises(ConfigError, match="bc learns from a dataset"):
        train_online(offline, ToyEnv(6), steps=10)


# ---- training --------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.npz"
    learner = make()
    train_online(learner, toy_env(learner), steps=48, checkpoint=file)
    other = make()
    with pytest.raises(CheckpointError, match="total_updates differ"):
        train_online(other, toy_env(other), steps=48 * 5, checkpoint=file)
    other = make(lr=1e-2)
    with pytest.raises(CheckpointError, match="lr"):
        train_online(other, toy_env(other), steps=48, checkpoint=file)


def test_step_size_falls_to_zero() -> None:
    """At progress 1 nothing moves any more, unless the decay is switched off."""
    for decay in (True, False):
        learner = make(lr_decay=decay)
        before = learner.nets.actor.net.first.weight.detach().clone()
        collector = Collector(learner, toy_env(learner))
        collector.restart(0)
        learner.update(collector.collect(1.0))
        assert torch.equal(learner.nets.actor.net.first.weight, before) is decay


@pytest.mark.parametrize(("kind", "chance"), [("continuous", 4.0), ("discrete", 1.25)])
def test_learns_the_optimum(kind: ActionKind, chance: float) -> None:
    """From chance to the optimum of 5."""
    env = Guess(32, kind)
    sizes: dict[str, Any] = {"num_envs": 32, "rollout": 20, "batch_size": 320, "hidden": 32, "epochs": 4}
    learner = marlzoo.make("mappo", env.spec, seeds=[0], lr=1e-2, **sizes)
    before = evaluate(learner.policy(), Guess(64, kind), seeds=[1]).returns.mean()
    train_online(learner, env, steps=640 * 15)
    after = evaluate(learner.policy(), Guess(64, kind), seeds=[1]).returns.mean()
    assert before < chance + 0.4
    assert after > 4.9


@pytest.mark.parametrize("method", ["mappo", "happo", "hatrpo"])
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_rollouts_are_samples_of_the_policy(method: str, kind: ActionKind) -> None:
    """The mean log-density of samples is minus the entropy; that of modes or of clipped samples is not."""
    learner = cast(MAPPO, marlzoo.make(method, toy_spec(kind), seeds=(0, 1), dtype=torch.float64, **SMALL))
    obs = (
        torch.randn(2, 1, 3, 5, generator=torch.Generator().manual_seed(0)).double().expand(-1, 4000, -1, -1)
    )
    mask = torch.ones(2, 4000, 3, learner.spec.action_size).bool() if learner.spec.discrete else None
    random = ReplicaRandom(learner.seeds, "x", dtype=torch.float64)
    actor = learner.nets.actor
    with torch.no_grad():
        for name, parameter in actor.net.named_parameters():
            parameter *= (
                100.0 if name.endswith("out.weight") else 1.0
            )  # far from uniform, with means near the box's bounds
        action = learner.explore(obs, mask, random, torch.zeros(2, 4000).bool())
        log_prob, entropy = actor.log_prob(obs, action, mask)
    error = log_prob.std(1) / math.sqrt(4000)
    assert ((log_prob.mean(1) + entropy.mean(1)).abs() < 4 * error + 1e-9).all()
    assert (error > 1e-3).any()


def test_policy_stays_in_the_box_and_its_sample_need_not() -> None:
    learner = make()
    obs, random = torch.randn(1, 500, 3, 5).double(), ReplicaRandom([0], "x", dtype=torch.float64)
    with torch.no_grad():
        learner.nets.actor.net.out.bias += 0.9
        sample = learner.explore(obs, None, random, torch.zeros(1, 500).bool())
        acted = learner.policy().act(obs, None, random)
    assert sample.max() > 1.0
    assert acted.abs().max() == 1.0
    assert not sample[:, :, 1, 1].any(), "the second agent's second dimension is padding"
