"""HAPPO: one agent is PPO, the compound ratio, agents in turn, and that it learns."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from marlzoo.baselines import _ppo
from marlzoo.baselines.happo import HAPPO
from torch import Tensor

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.batch import Rollout
from marlzoo.envs import games
from marlzoo.spec import ActionKind
from marlzoo.training.evaluation import evaluate
from marlzoo.training.online import train_online
from tests.guess import Guess
from tests.toys import toy_spec

SMALL = {"hidden": 16, "num_envs": 6, "rollout": 8, "batch_size": 24, "epochs": 2}


def make(name: str, n_agents: int = 3, kind: ActionKind = "continuous", seeds: Any = (0, 1)) -> Algorithm:
    spec = toy_spec(kind, n_agents)
    return marlzoo.make(name, spec, seeds=seeds, dtype=torch.float64, **{**SMALL, "entropy": 0.01})


def rollout(learner: Algorithm) -> Rollout:
    """Random experience."""
    spec, source = learner.spec, torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, 6, 8, *shape, generator=source, dtype=torch.float64)

    fields = {
        "obs": normal(spec.n_agents, spec.obs_size),
        "state": normal(spec.state_size),
        "next_state": normal(spec.state_size),
        "action": normal(spec.n_agents, spec.action_size) * learner.action_dimensions,
        "reward": normal(),
        "mask": torch.ones(2, 6, 8).double(),
        "ends": (normal() > 1).double(),
        "progress": torch.tensor(0.0).double(),
    }
    if spec.discrete:
        fields["action_mask"] = normal(spec.n_agents, spec.action_size) > -0.5
        fields["action_mask"][..., 0] = True
        fields["action"] = fields["action_mask"].double().argmax(-1)
    noise = {
        "order": torch.rand(2, 2, 48, generator=source),
        "turns": torch.rand(2, spec.n_agents, generator=source),
    }
    return cast(Rollout, Rollout.of(noise, **fields))


def test_the_cost_of_means_beyond_their_bound_is_of_the_agent_in_turn() -> None:
    """Agent k's means are 0.6 + 0.1 k, the bound is 0.5: (0.1 + 0.1 k)² per dimension that the agent has."""
    spec = toy_spec()
    learners = [
        cast(HAPPO, marlzoo.make("happo", spec, seeds=(0, 1), dtype=torch.float64, **SMALL, **more))
        for more in ({}, {"bound_weight": 2.0, "mean_bound": 0.5})
    ]
    agent = torch.tensor([2, 1])
    torch.manual_seed(0)
    x = {
        "obs": torch.randn(2, 9, spec.obs_size).double(),
        "action": torch.randn(2, 9, spec.action_size).double(),
        "log_prob": torch.zeros(2, 9).double(),
        "advantage": torch.randn(2, 9).double(),
    }
    losses = []
    for learner in learners:
        out = learner.nets.actor.net.network.out
        with torch.no_grad():
            out.weight.zero_()
            out.bias.copy_((0.6 + 0.1 * torch.arange(3.0)).view(1, 3, *[1] * (out.bias.ndim - 2)))
        losses.append(_ppo.policy_loss(learner, learner.nets, x, agent))
    sizes = torch.tensor(spec.action_sizes)[agent].double()
    expected = 2.0 * sizes * (0.1 + 0.1 * agent.double()).square()
    torch.testing.assert_close(losses[1] - losses[0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_one_agent_is_ppo(kind: ActionKind) -> None:
    happo, mappo = make("happo", 1, kind), make("mappo", 1, kind)
    for learner in (happo, mappo):
        learner.update(rollout(learner))
    theirs = dict(mappo.named_parameters())
    for name, value in happo.named_parameters():
        other = theirs[name.replace("actor.net.network", "actor.net")]
        torch.testing.assert_close(value.flatten(), other.flatten(), rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_compound_ratio(kind: ActionKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """M is 1 for the first agent, then the product of the ratios of those before, in each replica's own order."""
    learner = cast(HAPPO, make("happo", 3, kind))
    before, seen = cast(HAPPO, make("happo", 3, kind)), []
    whole = learner.own_experience

    def watch(experience: dict[str, Tensor], agent: Tensor, compound: Tensor) -> dict[str, Tensor]:
        seen.append((agent, compound))
        return whole(experience, agent, compound)

    monkeypatch.setattr(learner, "own_experience", watch)
    data = rollout(learner)
    metrics = learner.update(data)
    flat = [x.flatten(1, 2) for x in (data.obs, data.action)]
    action_mask = data.action_mask.flatten(1, 2) if kind == "discrete" else None
    with torch.no_grad():
        new, old = (each.nets.actor.log_prob(*flat, action_mask)[0] for each in (learner, before))
    ratio = torch.exp(new - old)  # [R, M, N]; each agent's policy moved in its own turn only
    order = torch.stack([agent for agent, _ in seen], dim=1)
    assert order.tolist() == data.noise["turns"].argsort(-1).tolist()
    assert order[0].tolist() != order[1].tolist(), "replicas have orders of their own"
    assert (seen[0][1] == 1).all()
    expected = torch.ones_like(ratio[..., 0])
    for agent, compound in seen:
        torch.testing.assert_close(compound, expected)
        expected = expected * ratio[torch.arange(2), :, agent]
    torch.testing.assert_close(metrics["policy/compound_ratio"], expected.mean(1))
    assert (expected - 1).abs().max() > 1e-3


def test_agents_count_their_own_steps() -> None:
    """Two epochs of two batches each; another agent's turn moves neither parameters nor moments."""
    learner = make("happo")
    learner.update(rollout(learner))
    assert learner.state_tensors()["optimizer.policy.count"].tolist() == [[4.0] * 3] * 2


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_learns_the_optimum(kind: ActionKind) -> None:
    env = Guess(32, kind)
    sizes: dict[str, Any] = {"num_envs": 32, "rollout": 20, "batch_size": 320, "hidden": 32, "epochs": 4}
    learner = marlzoo.make("happo", env.spec, seeds=[0], lr=1e-2, **sizes)
    train_online(learner, env, steps=640 * 9)
    assert evaluate(learner.policy(), Guess(64, kind), seeds=[1]).returns.mean() > 4.9


def test_agrees_on_xor() -> None:
    """Two optima of value 1, no policy shared by the agents is one of them; every seed finds one."""
    sizes: dict[str, Any] = {"num_envs": 64, "rollout": 1, "batch_size": 64, "hidden": 16, "epochs": 4}
    learner = marlzoo.make("happo", games.spec("xor"), seeds=range(5), lr=5e-2, **sizes)
    train_online(learner, games.make("xor", 5 * 64), steps=64 * 24)
    found = evaluate(learner.policy(), games.make("xor", 5), seeds=range(5)).returns
    np.testing.assert_array_equal(found, 1.0)
