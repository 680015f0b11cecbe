"""IQL+CQL: closed forms of penalty and target, masks, the target's period, learning a small game."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import marlzoo
from marlzoo.objectives import double_q
from marlzoo.training.trainer import make_sampler
from tests.toys import toy_dataset, toy_spec


def learner(name: str = "iql_cql", **settings: Any) -> Any:
    small = {"hidden": 8, "batch_size": 16, "sequence_length": 0}
    return marlzoo.make(name, toy_spec("discrete"), seeds=(0, 1), dtype=torch.float64, **(small | settings))


def constant_values(algorithm: Any) -> None:
    """All action values zero."""
    for net in (algorithm.team, algorithm.target):
        head = net.agents.network.head
        head.weight.data.zero_()
        head.bias.data.zero_()


def test_penalty_of_equal_values_is_the_log_of_the_legal_actions() -> None:
    data = toy_dataset("discrete")
    for illegal, per_step in ((False, None), (True, math.log(4))):
        algorithm = learner(penalize_illegal=illegal)
        constant_values(algorithm)
        batch = make_sampler(algorithm, [data]).next()
        counts = batch.action_mask[:, :, :-1].sum(-1).double().log().mean(-1)
        expected = (counts * batch.filled).flatten(1).sum(1) / batch.filled.flatten(1).sum(1)
        if per_step is not None:
            expected = torch.full_like(expected, per_step)
        torch.testing.assert_close(algorithm.update(batch)["q/penalty"], expected)


def test_td_of_zero_values_is_half_the_mean_squared_reward() -> None:
    data = toy_dataset("discrete")
    for half in (True, False):
        algorithm = learner(half_td=half)
        constant_values(algorithm)
        batch = make_sampler(algorithm, [data]).next()
        square = (batch.agent_reward.square().mean(-1) * batch.filled).flatten(1).sum(1)
        expected = square / batch.filled.flatten(1).sum(1) * (0.5 if half else 1.0)
        torch.testing.assert_close(algorithm.update(batch)["q/loss"], expected)


def test_double_q_takes_the_online_best_legal_action() -> None:
    action_mask, target = torch.tensor([True, True, False]), torch.tensor([10.0, 20.0, 30.0])
    assert double_q(torch.tensor([1.0, 2.0, 5.0]), target, action_mask) == 20.0
    assert double_q(torch.tensor([2.0, 1.0, 5.0]), target, action_mask) == 10.0


@pytest.mark.parametrize("name", ["iql_cql", "qmix_cql"])
def test_target_is_copied_every_period(name: str) -> None:
    algorithm = learner(name, target_period=3)
    sampler = make_sampler(algorithm, [toy_dataset("discrete")])
    for update in range(1, 8):
        algorithm.update(sampler.next())
        pairs = zip(algorithm.target.parameters(), algorithm.team.parameters(), strict=True)
        assert all(torch.equal(old, new) for old, new in pairs) == (update % 3 == 0), update


@pytest.mark.parametrize("name", ["iql_cql", "qmix_cql"])
def test_padding_changes_nothing(name: str) -> None:
    """Whatever the rows after an episode's final observation hold, losses and step are the same."""
    results = []
    for garbage in (False, True):
        algorithm = learner(name, td_lambda=0.6, last_action=True)
        batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
        if garbage:
            spoil(batch)
        metrics = algorithm.update(batch)
        results.append({**metrics, **dict(algorithm.team.named_parameters())})
    for key, value in results[0].items():
        torch.testing.assert_close(value, results[1][key], msg=key)


def spoil(batch: Any) -> None:
    """Overwrite everything that is padding."""
    pad = batch.filled == 0
    assert pad.any()
    batch.action[pad] = 3 - batch.action[pad]
    batch.mask[pad] = 1.0 - batch.mask[pad]
    batch.obs[:, :, 1:][pad] = 9.0
    batch.action_mask[:, :, 1:][pad] = False
    if batch.has("state"):
        batch.state[:, :, 1:][pad] = -9.0
    name = "reward" if batch.has("reward") else "agent_reward"
    reward = getattr(batch, name).clone()
    reward[pad] = 50.0
    setattr(batch, name, reward)


def test_illegal_actions_get_no_gradient_from_the_penalty() -> None:
    """With discount 0 and the data's actions best, an action that was never legal keeps its value's bias."""
    data = toy_dataset("discrete")
    algorithm = learner(penalize_illegal=False, gamma=0.0)
    batch = make_sampler(algorithm, [data]).next()
    batch.action_mask[..., 3] = False
    batch.action.clamp_(max=2)
    before = algorithm.team.agents.network.head.bias.detach().clone()
    algorithm.update(batch)
    moved = algorithm.team.agents.network.head.bias.detach() - before
    assert (moved[..., 3] == 0).all()
    assert (moved[..., :3] != 0).all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("iql_cql", {}), ("qmix_cql", {"penalty": "individual"}), ("qmix_cql", {"penalty": "joint"})],
)
def test_a_large_weight_makes_the_data_actions_best(name: str, settings: dict[str, Any]) -> None:
    """Data that always take the first legal action: the greedy policy does so too."""
    data = toy_dataset("discrete", episodes=10)
    assert data.action_mask is not None
    data.action[:] = data.action_mask.argmax(-1)
    algorithm = learner(name, cql_weight=100.0, lr=2e-2, hidden=32, history="mlp", **settings)
    sampler = make_sampler(algorithm, [data])
    metrics = {}
    for _ in range(90):
        metrics = algorithm.update(sampler.next())
    assert all(torch.isfinite(value).all() for value in metrics.values())
    obs, action_mask = torch.from_numpy(data.obs).double(), torch.from_numpy(data.action_mask)
    action = algorithm.policy().act(obs.expand(2, *obs.shape), action_mask.expand(2, *action_mask.shape))
    agreement = (action.numpy() == data.action).mean()
    assert agreement > 0.85, agreement


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_without_the_penalty_it_is_double_q_learning(weight: float) -> None:
    """From transitions: every agent's reward and the target's value of its own best legal next action."""
    algorithm, caught = learner(history="mlp", cql_weight=weight, gamma=0.9), dict[str, torch.Tensor]()
    batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
    batch.agent_reward = batch.agent_reward * torch.tensor([1.0, -2.0, 3.0]).double()
    identity = torch.eye(3).double().expand(2, 16, 3, 3)
    net, target = algorithm.team.agents.network, algorithm.target.agents.network
    with torch.no_grad():
        for parameter in target.parameters():
            parameter *= 0.5  # so that online and target choose differently
        q = net(torch.cat((batch.obs, identity), -1)).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        after = torch.cat((batch.next_obs, identity), -1)
        best = net(after).masked_fill(~batch.next_action_mask, -torch.inf).argmax(-1, keepdim=True)
        y = batch.agent_reward + 0.9 * batch.mask.unsqueeze(-1) * target(after).gather(-1, best).squeeze(-1)
    algorithm.step = lambda **losses: caught.update(losses) or {}
    penalty = algorithm.update(batch)["q/penalty"]
    torch.testing.assert_close(caught["q"], 0.5 * (q - y).square().mean((1, 2)) + weight * penalty)


def test_where_nothing_is_legal_the_first_action_is_taken() -> None:
    """As in padding; otherwise a legal one, however low its value is."""
    policy, obs = learner(history="mlp").policy(), torch.randn(2, 50, 3, 5).double()
    for legal in ([False] * 4, [False, False, True, False]):
        action = policy.act(obs, torch.tensor(legal).expand(2, 50, 3, 4))
        assert action.unique().tolist() == [2 if any(legal) else 0]
