"""Evaluation against episodes whose rewards, ends and wins are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.envs.base import BatchedEnv, Ids, Observation, Step
from marlzoo.errors import SpecError
from marlzoo.modules.policies import Policy
from marlzoo.replicas import PrefetchedRandom, ReplicaRandom
from marlzoo.spec import Spec
from marlzoo.training.evaluation import evaluate

AGENTS, HORIZON = 2, 8


class Script(BatchedEnv):
    """Copy k's episode ends after k + 1 steps (terminal where k is even) or at the horizon; step t pays 10^k t.

    With ``per_agent``, agent i gets that much plus or minus one. A copy wins at its own terminal end.
    """

    task, can_win = "test/script", True

    def __init__(self, num_envs: int, per_agent: bool = False) -> None:
        self.num_envs, self.metadata = num_envs, {}
        self.spec = Spec(AGENTS, 3, 6, "continuous", 1, HORIZON, reward_per_agent=per_agent)
        self.seeds: list[int] = []
        self.stepped: list[list[int]] = []
        self._t = np.zeros(num_envs, np.int64)

    def seed(self, seeds: Sequence[int]) -> None:
        self.seeds = list(seeds)

    def reset(self, ids: Ids | None = None) -> Observation:
        self._t[:] = 0
        return Observation(*self._seen())

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        assert ids is not None
        assert np.isfinite(action).all()
        self.stepped.append(ids.tolist())
        self._t[ids] += 1
        live = np.isin(np.arange(self.num_envs), ids)
        number = np.arange(self.num_envs)
        reward = np.where(live, 10.0**number * self._t, 99.0)  # 99: must not be counted
        if self.spec.reward_per_agent:
            reward = reward[:, None] + np.array([1.0, -1.0])
        over = live & (self._t == number + 1)
        terminal = over & (number % 2 == 0)
        truncated = live & ~terminal & (over | (self._t >= HORIZON))
        wins = terminal | ~live  # a copy that is over may show anything
        return Step(
            *self._seen(),
            reward=reward.astype(np.float32),
            terminal=terminal,
            truncated=truncated,
            info={"win": wins},
        )

    def _seen(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        obs = np.zeros((self.num_envs, AGENTS, 3), np.float32)
        obs[:, :, 0], obs[:, :, 1] = np.arange(self.num_envs)[:, None], self._t[:, None]
        return obs, obs.reshape(self.num_envs, -1)


class Constant(Policy):
    """Zero, or NaN in the copies and steps (``(copy, t)``) that are named; keeps what it saw."""

    def __init__(self, broken: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__()
        self.broken, self.seen = broken, list[Tensor]()

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        assert random is None
        self.seen.append(obs)
        action = torch.zeros(*obs.shape[:-1], 1)
        for copy, t in self.broken:
            action[(obs[..., 0] == copy) & (obs[..., 1] == t)] = torch.nan
        return action


@pytest.mark.parametrize("per_agent", [False, True])
def test_returns_are_undiscounted_sums_of_each_copys_own_episode(per_agent: bool) -> None:
    env, policy = Script(6, per_agent), Constant()
    found = evaluate(policy, env, seeds=[5, 6])
    lengths = np.arange(1, 7)
    np.testing.assert_array_equal(found.lengths, lengths.reshape(2, 3))
    expected = 10.0 ** np.arange(6) * lengths * (lengths + 1) / 2
    np.testing.assert_allclose(found.returns, expected.reshape(2, 3), rtol=1e-6)
    assert found.wins is not None
    np.testing.assert_array_equal(found.wins, [[True, False, True], [False, True, False]])
    assert env.stepped == [list(range(t, 6)) for t in range(6)]
    assert policy.seen[0].shape == (2, 3, AGENTS, 3)
    assert policy.seen[0][1, :, 0, 0].tolist() == [3, 4, 5]  # copy r * E + e is episode e of replica r


def test_the_horizon_is_the_tasks_or_the_one_given() -> None:
    env = Script(12)
    assert evaluate(Constant(), env, seeds=[0]).lengths.max() == HORIZON
    found = evaluate(Constant(), env, seeds=[0], horizon=3)
    assert found.lengths[0].tolist() == [1, 2, *[3] * 10]
    assert found.returns[0, 11] == pytest.approx(6e11, rel=1e-6)


def test_actions_that_are_not_finite_end_their_copy_alone() -> None:
    whole, found = (evaluate(Constant(broken), Script(6), seeds=[0, 1]) for broken in ((), ((4, 2), (0, 0))))
    assert np.isnan(found.returns).tolist() == [[True, False, False], [False, True, False]]
    assert found.lengths.tolist() == [[0, 2, 3], [4, 2, 6]]
    kept = ~np.isnan(found.returns)
    np.testing.assert_array_equal(found.returns[kept], whole.returns[kept])


def test_starts_depend_on_the_replicas_own_seed() -> None:
    env, alone = Script(6), Script(3)
    evaluate(Constant(), env, seeds=[8, 9], horizon=1)
    evaluate(Constant(), alone, seeds=[9], horizon=1)
    assert len(set(env.seeds)) == 6
    assert env.seeds[3:] == alone.seeds


def test_copies_must_be_shared_evenly() -> None:
    with pytest.raises(SpecError, match="5 copies cannot be shared by 2 replicas"):
        evaluate(Constant(), Script(5), seeds=[0, 1])


def test_numbers_drawn_ahead_are_the_replica_s_own() -> None:
    """Replica 1's numbers are those it draws alone, over the end of a block and with other shapes between."""
    both, alone = PrefetchedRandom([3, 4], "act"), PrefetchedRandom([4], "act")
    for step in range(2 * PrefetchedRandom.BLOCK + 1):
        assert torch.equal(both.normal(2, 3)[1], alone.normal(2, 3)[0])
        if step % 3 == 0:
            assert torch.equal(both.uniform(5)[1], alone.uniform(5)[0])
    assert len({float(both.normal(2, 3)[0, 0, 0]) for _ in range(200)}) == 200
