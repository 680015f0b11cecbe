"""A deployed team around a policy that keeps what it is given."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from marlzoo.deployment.team_policy import TeamPolicy
from marlzoo.errors import SpecError
from marlzoo.modules.policies import Policy
from marlzoo.replicas import ReplicaRandom
from marlzoo.spec import Spec

BOX = Spec(2, 3, 6, "continuous", 2, 9, obs_sizes=(3, 2), action_sizes=(2, 1))
CHOICE = Spec(2, 3, 6, "discrete", 4, 9, obs_sizes=(3, 2), action_sizes=(4, 2))


class Noted(Policy):
    """Continuous: random numbers, or the first entries of the observation; discrete: the last legal action."""

    def __init__(self, stochastic: bool = False) -> None:
        super().__init__()
        self.stochastic = stochastic
        self.calls: list[Any] = []

    def __deepcopy__(self, memo: Any) -> Noted:
        other = Noted(self.stochastic)
        other.calls = self.calls  # the test sees all of them
        return other

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        self.calls.append(("reset", num_envs, None if ids is None else ids.tolist()))

    def receive(self, reward: Tensor) -> None:
        self.calls.append(("receive", reward.tolist()))

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        self.obs, self.mask = obs, action_mask
        self.calls.append(("act", obs, action_mask))
        if action_mask is not None:
            return action_mask.long().mul(torch.arange(1, action_mask.shape[-1] + 1)).argmax(-1)
        return obs[..., :2] if random is None else random.uniform(*obs.shape[1:-1], 2)


def acted(policy: Noted) -> tuple[Any, Any]:
    return next(call[1:] for call in reversed(policy.calls) if call[0] == "act")


def test_teams_of_one_and_of_several_environments() -> None:
    policy, obs = Noted(), np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    team = TeamPolicy(policy, BOX)
    np.testing.assert_array_equal(team.act(obs), obs[..., :2])
    assert acted(policy)[0].shape == (1, 3, 2, 3)
    team.reset()
    found = team.act(obs[0])
    assert found.shape == (2, 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, obs[0, :, :2])
    assert TeamPolicy(Noted(), BOX, dtype=torch.float64).act(obs).dtype == np.float32


def test_arrays_may_be_views_and_unwritable() -> None:
    obs = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    fixed = np.broadcast_to(obs[0], (3, 2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(TeamPolicy(Noted(), BOX).act(obs[::-1]), obs[::-1, :, :2])
        np.testing.assert_array_equal(TeamPolicy(Noted(), BOX).act(fixed), fixed[..., :2])
        team = TeamPolicy(Noted(), CHOICE)
        assert team.act(obs[0], mask[::-1]).tolist() == [0, 2]
        assert team.act(obs[0, 0], mask[0, ::-1], agent=0) == 3
    team.reset()
    for agent, wrong in ((None, [[1, 0], [1]]), (0, [1, [0]])):
        with pytest.raises(SpecError, match="action_mask: not an array of booleans"):
            team.act(obs[0] if agent is None else obs[0, 0], wrong, agent=agent)  # type: ignore[arg-type]


def test_agents_without_a_mask_may_do_all_that_they_can() -> None:
    policy, obs = Noted(), np.zeros((2, 3), np.float32)
    team = TeamPolicy(policy, CHOICE)
    assert team.act(obs).tolist() == [3, 1]
    mask = np.array([[True, True, False, False], [True, False, False, False]])
    assert team.act(obs, mask).tolist() == [1, 0]
    assert acted(policy)[1].tolist() == [[mask.tolist()]]
    assert team.act(obs[None], mask[None]).dtype == np.int64
    for agent, own in ((0, 3), (1, 1)):
        assert team.act(obs[agent], agent=agent).tolist() == own
        assert team.act(obs[agent, : CHOICE.obs_sizes[agent]], mask[agent], agent=agent).tolist() == 1 - agent
        assert acted(policy)[1][0, 0, 1 - agent].all()
    assert team.act(obs[1], [True, True], agent=1).tolist() == 1
    with pytest.raises(SpecError, match="no action is legal"):
        team.act(obs[1], [False, False], agent=1)


def test_an_agent_alone_is_in_its_place_and_has_its_own_size() -> None:
    policy = Noted()
    team = TeamPolicy(policy, BOX)
    one = team.act([7.0, 8.0], agent=1)
    assert one.tolist() == [7.0]
    assert acted(policy)[0].tolist() == [[[[0.0, 0.0, 0.0], [7.0, 8.0, 0.0]]]]
    assert team.act([[1.0, 2.0, 3.0]] * 4, agent=0).shape == (4, 2)
    for wrong in (-1, 2):
        with pytest.raises(SpecError, match="the team has agents 0 to 1"):
            team.act([1.0, 2.0], agent=wrong)
    policy.execution = "centralized"
    with pytest.raises(SpecError, match="no agent can act alone"):
        team.act([1.0, 2.0], agent=1)


def test_noise_is_that_of_the_seed_and_goes_on() -> None:
    obs = np.zeros((2, 3), np.float32)
    team, random = TeamPolicy(Noted(stochastic=True), BOX, seed=3), ReplicaRandom([3], "deployment")
    first, second = (random.uniform(1, 2, 2)[0, 0].numpy() for _ in range(2))
    np.testing.assert_array_equal(team.act(obs), first)
    team.reset()
    np.testing.assert_array_equal(team.act(obs), second)
    team.reset(seed=3)
    np.testing.assert_array_equal(team.act(obs), first)
    alone = team.act(obs[0], agent=0)
    team.reset(seed=4)
    np.testing.assert_array_equal(
        team.act(obs), ReplicaRandom([4], "deployment").uniform(1, 2, 2)[0, 0].numpy()
    )
    team.reset(seed=3)
    np.testing.assert_array_equal(team.act(obs[0], agent=0), alone)  # agents' noise starts anew, too
    team.reset()
    with pytest.raises(SpecError, match="leave out ids"):
        team.reset([0], seed=1)


def test_what_resets_and_rewards_reach() -> None:
    policy = Noted()
    team, obs = TeamPolicy(policy, BOX), np.zeros((3, 2, 3), np.float32)
    team.receive([1.0])  # nothing has been done for it
    team.reset([0])
    team.act(obs)
    team.act(obs)
    team.reset([2, 0])
    team.receive([1.0, 2.0, 3.0])
    told = [call for call in copy.copy(policy.calls) if call[0] != "act"]
    assert told == [("reset", 3, None), ("reset", 3, [2, 0]), ("receive", [[1.0, 2.0, 3.0]])]
    with pytest.raises(SpecError, match="2 environments, but 3 in the call before"):
        team.act(obs[:2])
    for wrong in ([3], [-1]):
        with pytest.raises(SpecError, match="not all among the 3 environments"):
            team.reset(wrong)
    with pytest.raises(SpecError, match="2 rewards for 3 environments"):
        team.receive([1.0, 2.0])
    team.reset()
    team.act(obs[:2])
    team.act(obs[:2, 0], agent=0)
    policy.calls.clear()
    team.reset([1])
    assert policy.calls == [("reset", 2, [1]), ("reset", 2, [1])]  # the team's past, and the agent's own
    with pytest.raises(SpecError, match="not finite"):
        team.act(np.where(obs + np.arange(3) == 1, np.nan, obs))
