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
from marlzoo.envs.episodes import Play, Recording
from marlzoo.errors import SpecError
from marlzoo.modules.policies import Policy
from marlzoo.replicas import PrefetchedRandom, ReplicaRandom
from marlzoo.spec import Spec
from marlzoo.training.evaluation import evaluate

AGENTS, HORIZON = 2, 8


class Script(BatchedEnv):
    """Copy k's episode ends after k + 1 steps (terminal where k is even) or at the horizon; step t pays 10^k t.

    With ``per_agent``, agent i gets that much plus or minus one. A copy wins at its own terminal end, and copy 4 also
    shows a win in its second step. With ``discrete``, copy k has k + 1 legal actions, and no win is shown.
    """

    task = "test/script"

    def __init__(self, num_envs: int, per_agent: bool = False, discrete: bool = False) -> None:
        self.num_envs, self.metadata, self.can_win = num_envs, {}, not discrete
        kind, size = ("discrete", num_envs) if discrete else ("continuous", 1)
        self.spec = Spec(AGENTS, 3, 6, kind, size, HORIZON, reward_per_agent=per_agent)
        self.seeds: list[int] = []
        self.started: list[list[int] | None] = []
        self.stepped: list[list[int]] = []
        self._t = np.zeros(num_envs, np.int64)

    def seed(self, seeds: Sequence[int]) -> None:
        self.seeds = list(seeds)

    def reset(self, ids: Ids | None = None) -> Observation:
        self.started.append(None if ids is None else ids.tolist())
        self._t[slice(None) if ids is None else ids] = 0
        return self._seen()

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
        # a copy that is over may show anything
        wins = (terminal & (number != 4)) | ((number == 4) & (self._t == 2)) | ~live
        seen = self._seen()
        return Step(
            seen.obs,
            seen.state,
            seen.action_mask,
            reward=reward.astype(np.float32),
            terminal=terminal,
            truncated=truncated,
            info={"win": wins} if self.can_win else {},
        )

    def _seen(self) -> Observation:
        obs, number = np.zeros((self.num_envs, AGENTS, 3), np.float32), np.arange(self.num_envs)
        obs[:, :, 0], obs[:, :, 1] = number[:, None], self._t[:, None]
        legal = np.broadcast_to(number <= number[:, None, None], (self.num_envs, AGENTS, self.num_envs))
        return Observation(obs, -obs.reshape(self.num_envs, -1), legal.copy() if self.spec.discrete else None)


class Constant(Policy):
    """Zero, or NaN for agent 0 in the copies and steps (``(copy, t)``) that are named; keeps what it saw."""

    def __init__(self, broken: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__()
        self.broken, self.seen = broken, list[Tensor]()
        self.legal, self.paid, self.begun = list[Tensor | None](), list[Tensor](), list[int]()

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        assert ids is None
        assert not self.seen
        self.begun.append(num_envs)

    def receive(self, reward: Tensor) -> None:
        self.paid.append(reward)

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        assert random is None
        self.seen.append(obs)
        self.legal.append(action_mask)
        if action_mask is not None:
            return torch.zeros(obs.shape[:-1], dtype=torch.int64)
        action = torch.zeros(*obs.shape[:-1], 1)
        for copy, t in self.broken:
            action[:, :, 0][(obs[:, :, 0, 0] == copy) & (obs[:, :, 0, 1] == t)] = torch.nan
        return action


class Noisy(Constant):
    """Its actions are random numbers."""

    stochastic = True

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        assert random is not None
        self.seen.append(random.uniform(*obs.shape[1:-1], 1))
        return self.seen[-1]


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
    assert policy.begun == [3]  # copies of each replica, before the first action
    paid = torch.stack(policy.paid)
    assert paid.shape == (6, 2, 3)
    assert paid[:, 1, 0].tolist() == [1e3, 2e3, 3e3, 4e3, 99.0, 99.0]
    assert policy.seen[0].shape == (2, 3, AGENTS, 3)
    assert policy.seen[0][1, :, 0, 0].tolist() == [3, 4, 5]  # copy r * E + e is episode e of replica r


def test_what_an_action_costs_is_the_policys_time_shared_by_all_agents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock that only the policy moves, by 3 seconds an act."""
    now = [0.0]

    class Slow(Constant):
        def act(self, *args: Any) -> Tensor:
            now[0] += 3.0
            return super().act(*args)

    monkeypatch.setattr("marlzoo.training.evaluation.time.perf_counter", lambda: now[0])
    found = evaluate(Slow(), Script(6), seeds=[0, 1])
    assert found.seconds_per_action == 3.0 / (6 * AGENTS)


def test_the_horizon_is_the_tasks_or_the_one_given() -> None:
    env = Script(12)
    assert evaluate(Constant(), env, seeds=[0]).lengths.max() == HORIZON
    found = evaluate(Constant(), env, seeds=[0], horizon=3)
    assert found.lengths[0].tolist() == [1, 2, *[3] * 10]
    assert found.returns[0, 11] == pytest.approx(6e11, rel=1e-6)


BROKEN = ((4, 2), (0, 0), (1, 2))  # copy 1 has ended before


def test_actions_that_are_not_finite_end_their_copy_alone() -> None:
    whole, found = (evaluate(Constant(broken), Script(6), seeds=[0, 1]) for broken in ((), BROKEN))
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


def test_policies_that_sample_draw_the_replicas_own_numbers() -> None:
    both, alone = Noisy(), Noisy()
    evaluate(both, Script(6), seeds=[8, 9])
    evaluate(alone, Script(3), seeds=[9])
    for one, other in zip(alone.seen, both.seen, strict=False):
        assert torch.equal(one[0], other[1])
    assert not torch.equal(both.seen[0][0], both.seen[0][1])
    stream = PrefetchedRandom([9], "act")
    assert torch.equal(alone.seen[0], stream.uniform(3, AGENTS, 1))


def test_discrete_teams_see_their_legal_actions_and_cannot_win() -> None:
    policy = Constant()
    found = evaluate(policy, Script(4, discrete=True), seeds=[0, 1], dtype=torch.float64)
    assert found.wins is None
    assert policy.seen[0].dtype == policy.paid[0].dtype == torch.float64
    assert policy.legal[0] is not None
    assert policy.legal[0].sum(-1).tolist() == [[[1, 1], [2, 2]], [[3, 3], [4, 4]]]


def test_a_copy_that_begins_anew_forgets_its_episode_alone() -> None:
    env, action = Script(6), np.zeros((6, AGENTS, 1), np.float32)
    play = Play(env, copies=5)
    assert env.started == [[0, 1, 2, 3, 4]]  # what another copy draws at its start is left for its own
    for _ in range(3):
        play.step(action)
    assert play.live.tolist() == [3, 4]
    assert play.stepped.tolist() == [2, 3, 4]
    assert play.terminal.tolist() == [True, False, True, False, False, False]
    assert play.truncated.tolist() == [False, True, False, False, False, False]
    play.restart(np.array([0, 2, 4]))
    assert play.live.tolist() == [0, 2, 3, 4]
    assert play.lengths.tolist() == [0, 2, 0, 3, 0, 0]
    assert play.returns.tolist() == [0.0, 30.0, 0.0, 6000.0, 0.0, 0.0]
    assert not play.won.any()
    assert play.terminal.sum() == 0
    assert play.truncated.tolist() == [False, True, False, False, False, False]
    assert play.seen.obs[:, 0, 1].tolist() == [0, 2, 0, 3, 0, 0]


@pytest.mark.parametrize("discrete", [False, True])
def test_a_recording_holds_what_was_seen_and_done(discrete: bool) -> None:
    """Row t has what was seen before step t; a copy's rows beyond its final observation are blank."""
    play = Play(Script(4, discrete=discrete), copies=3)
    recording = Recording(play)
    for t in range(3):
        given = (
            np.full((4, AGENTS), t % 2) if discrete else np.full((4, AGENTS, 1), 0.25 * (t + 1), np.float32)
        )
        recording.add(given, play.step(given))
    arrays = recording.arrays
    assert arrays["obs"].shape == (3, HORIZON + 1, AGENTS, 3)
    for copy in range(3):
        steps = copy + 1
        np.testing.assert_array_equal(arrays["obs"][copy, : steps + 1, 0, 1], np.arange(steps + 1))
        np.testing.assert_array_equal(arrays["state"][copy, : steps + 1, 1], -np.arange(steps + 1))
        np.testing.assert_allclose(arrays["reward"][copy, :steps], 10.0**copy * np.arange(1, steps + 1))
        done = np.arange(3) % 2 if discrete else 0.25 * np.arange(1, 4)
        np.testing.assert_array_equal(arrays["action"][copy, :steps].reshape(steps, -1)[:, 0], done[:steps])
        assert arrays["terminal"][copy].nonzero()[0].tolist() == ([steps - 1] if copy % 2 == 0 else [])
        assert arrays["truncated"][copy].nonzero()[0].tolist() == ([] if copy % 2 == 0 else [steps - 1])
        assert not arrays["obs"][copy, steps + 1 :].any()
        assert not arrays["reward"][copy, steps:].any()
        if discrete:
            assert (arrays["action_mask"][copy, : steps + 1].sum(-1) == steps).all()


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
