"""Independent IQL and MAIQL: expectiles, weights, and that MAIQL of one agent is IQL."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch
from marlzoo.replicas import GivenRandom
from marlzoo.training.trainer import make_sampler
from tests.fixed_nets import set_table, spec_of, transitions
from tests.toys import toy_dataset, toy_spec

SMALL = {"hidden": 16, "batch_size": 16}
METHODS = [("iql", {}), ("maiql", {"mixer_hidden": 8})]


def learner(name: str, spec: Any, seeds: tuple[int, ...] = (0,), **settings: Any) -> Any:
    return marlzoo.make(name, spec, seeds=seeds, dtype=torch.float64, **(SMALL | settings))


def unmixed(algorithm: Any) -> None:
    """Weights 1 and bias 0, whatever the mixers say."""

    def mix(mixer: Any, obs: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
        nothing = 0.0 * mixer(obs.flatten(-2), *more)
        return 1.0 + nothing[..., :-1], nothing[..., -1]

    algorithm._mix = mix


def test_v_is_the_expectile_of_the_data_values() -> None:
    algorithm = learner("iql", spec_of(1, 3), (0, 0, 0), expectile=[0.5, 0.7, 0.9], tau=0.0, lr=0.05)
    set_table(algorithm.target_q.networks.members, [[0.0, 1.0, 4.0]])
    one = transitions([[0], [1], [2]], actions=3, obs=torch.zeros(3, 1, 2))
    for name, value in one.tensors().items():
        setattr(one, name, value.expand(3, *value.shape[1:]))
    for _ in range(200):
        algorithm.update(one)
    v = algorithm.v(torch.cat((one.obs, torch.ones(3, 3, 1, 1)), -1))[:, 0, 0]
    torch.testing.assert_close(v, torch.tensor([5 / 3, 2.3846, 3.3636]).double(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_maiql_of_one_agent_is_iql(kind: Any) -> None:
    spec = spec_of(1, 3, kind)
    one = learner("iql", spec, lr=1e-2)
    team = learner("maiql", spec, lr=1e-2, mixer_hidden=8, grad_clip=torch.inf)
    unmixed(team)
    for part in ("actor", "q", "v", "target_q"):
        getattr(team, part).load_state_dict(getattr(one, part).state_dict())
    source = torch.Generator().manual_seed(0)
    for _ in range(5):
        reward = torch.randn(8, generator=source)
        action: Tensor = torch.randint(3, (8, 1), generator=source)
        if kind == "continuous":
            action = 2 * torch.rand(8, 1, 3, generator=source) - 1
        batch = transitions(
            action, actions=3 if kind == "discrete" else 0, reward=reward, agent_reward=reward[:, None]
        )
        first, second = one.update(batch), team.update(batch)
        for key in ("q/loss", "v/loss", "policy/loss"):
            assert torch.equal(first[key], second[key]), key
    for part in ("actor", "q", "v", "target_q"):
        mine, theirs = getattr(one, part).state_dict(), getattr(team, part).state_dict()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), part


@pytest.mark.parametrize(("name", "more"), METHODS)
def test_no_temperature_is_cloning_and_weights_are_bounded(name: str, more: dict[str, Any]) -> None:
    spec, data = toy_spec("discrete"), toy_dataset("discrete")
    cloning, greedy = learner(name, spec, beta=0.0, **more), learner(name, spec, beta=1e6, **more)
    batch = make_sampler(cloning, [data]).next()
    obs = torch.cat((batch.obs, torch.eye(3).double().expand(1, 16, 3, 3)), -1)
    with torch.no_grad():
        log_prob = cloning.data_log_prob(cloning.actor.network(obs), batch)
    found = cloning.update(batch)
    assert found["weight/mean"] == 1.0
    agents = log_prob.sum(-1) if name == "maiql" else log_prob
    torch.testing.assert_close(found["policy/loss"], -agents.flatten(1).mean(1))
    assert greedy.update(batch)["weight/mean"] <= 100.0


def test_equal_values_have_no_loss_of_v() -> None:
    algorithm = learner("maiql", spec_of(2, 2), mixer_hidden=8)
    unmixed(algorithm)
    set_table(algorithm.target_q.networks.members, [[3.0, 3.0], [-1.0, -1.0]])
    set_table(algorithm.v.network, [[3.0], [-1.0]])
    found = algorithm.update(transitions([[0, 1], [1, 0]], actions=2))
    assert found["v/loss"].abs() < 1e-20


def test_target_takes_the_smaller_twin_of_each_agent_before_mixing() -> None:
    algorithm = learner("maiql", spec_of(2, 1), mixer_hidden=8, expectile=0.5)
    unmixed(algorithm)
    members = algorithm.target_q.networks.members
    set_table(members, [[0.0], [0.0]])
    with torch.no_grad():
        members.layers[-1].weight[:, 0, :2, 0] = torch.tensor([1.0, 5.0])
        members.layers[-1].weight[:, 1, :2, 0] = torch.tensor([4.0, 2.0])
    set_table(algorithm.v.network, [[0.0], [0.0]])
    found = algorithm.update(transitions([[0, 0]], actions=1))
    torch.testing.assert_close(found["v/loss"], torch.tensor([0.5 * 9.0]).double())  # 1 + 2, not min(6, 6)


@pytest.mark.parametrize(("name", "settings"), METHODS)
def test_actions_are_clipped_to_the_authors_margin(name: str, settings: dict[str, Any]) -> None:
    """Replica 0 leaves actions on the bound, replica 1 moves them in by 1e-5, for the critics too."""
    spec = spec_of(2, 1, "continuous")
    found, data = [], transitions(torch.tensor([[[1.0], [-1.0]], [[0.2], [1.0]]]))
    for action, margin in ((1.0, [0.0, 1e-5]), (1.0 - 1e-5, [0.0, 0.0])):
        algorithm = learner(name, spec, (3, 3), action_margin=margin, **settings)
        moved = {**data.tensors(), "action": data.action.clamp(-action, action)}
        both = Batch.of(data.noise, **{key: v.expand(2, *v.shape[1:]) for key, v in moved.items()})
        found.append(algorithm.update(both))
    for key in ("policy/loss", "q/loss"):
        torch.testing.assert_close(found[0][key][1], found[1][key][1], rtol=0, atol=1e-12)
        assert abs(float(found[0][key][0] - found[0][key][1])) > 1e-9


@pytest.mark.parametrize("history", ["mlp", "rnn"])
def test_acting_with_noise_has_the_bounds_of_the_trained_density(history: Any) -> None:
    """The network asks for a log standard deviation of 1.5; IQL's are at most 0."""
    algorithm = learner("iql", toy_spec("continuous"), history=history, sequence_length=6)
    network, size = algorithm.actor.network, algorithm.spec.action_size
    with torch.no_grad():
        if history == "rnn":
            network.head.bias[..., size:] = 1.5
        else:
            network.log_std.bias[:] = 1.5
    policy, obs = algorithm.policy(), torch.zeros(1, 2, 3, 5).double()
    acted = []
    for random in (None, GivenRandom([torch.ones(1, 2, 3, 2).double()])):
        policy.reset(2)
        acted.append(torch.atanh(policy.act(obs, None, random).detach()))
    spread = (acted[1] - acted[0])[:, :, algorithm.action_dimensions > 0]
    torch.testing.assert_close(spread, torch.ones_like(spread))
