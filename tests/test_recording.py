"""Recording whole episodes by hand: which copies play, what is kept, cut and counted, and from which streams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import marlzoo
from marlzoo.data.card import Card
from marlzoo.modules.policies import Policy
from marlzoo.recording.collect import RecordedEpisode, dataset_of, play, record
from marlzoo.replicas import ReplicaRandom, derive
from tests.test_evaluate import AGENTS, Script
from tests.test_own_data import allowed
from tests.test_pettingzoo import Countdown
from tests.toys import ToyEnv


class Drawing(Policy):
    """Its actions are random numbers, which it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.drawn = list[int](), list[Tensor]()

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        self.begun.append(num_envs)

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        if action_mask is not None:
            return action_mask.sum(-1) - 1  # the last legal action
        assert random is not None
        self.drawn.append(random.uniform(*obs.shape[1:-1], 1))
        return self.drawn[-1]


def test_exactly_so_many_steps_in_waves_of_as_many_copies_as_are_needed() -> None:
    """Copy k's episodes take k + 1 steps; the first wave has one copy, since eight steps may be one episode."""
    env, policy, told = Script(3), Drawing(), list[int]()
    kept = record(policy, env, 8, 5, told.append)
    assert [episode.length for episode in kept] == [1, 1, 2, 3, 1]
    assert policy.begun == [1, 3, 2]
    assert env.seeds == [derive(5, "start", copy) for copy in range(3)]
    assert told == [1, 7]
    for wave, first in enumerate((0, 1, 4)):
        random = ReplicaRandom([derive(5, "wave", wave)], "explore")
        assert torch.equal(policy.drawn[first], random.uniform(policy.begun[wave], AGENTS, 1))
    np.testing.assert_array_equal(kept[3].arrays["action"][0], policy.drawn[1][0, 2])
    assert [(e.terminal, e.truncated, e.won) for e in kept] == [
        (True, False, True),
        (True, False, True),
        (False, True, False),
        (True, False, True),
        (True, False, True),
    ]
    assert [episode.total for episode in kept] == [1.0, 1.0, 30.0, 600.0, 1.0]
    assert env.stepped == [[0], [0, 1, 2], [1, 2], [2], [0, 1]], "the last wave ends with its first episode"


def test_the_last_episode_is_cut() -> None:
    kept = record(Drawing(), Script(3), 6, 5)
    assert [episode.length for episode in kept] == [1, 1, 2, 2]
    whole = record(Drawing(), Script(3), 7, 5)[-1]
    cut = kept[-1]
    for name in ("obs", "state"):
        np.testing.assert_array_equal(cut.arrays[name], whole.arrays[name][:3])
    np.testing.assert_array_equal(cut.arrays["action"][:2], whole.arrays["action"][:2])
    assert whole.arrays["action"][2].any()
    for name in ("action", "reward", "terminal", "truncated"):
        assert not cut.arrays[name][2].any()
    assert (cut.terminal, cut.truncated, cut.won) == (False, False, False)
    assert whole.cut(3) is whole
    assert not whole.cut(2).arrays["action"][2].any()
    assert whole.arrays["action"][2].any(), "what was cut is a copy"
    assert (whole.terminal, whole.won) == (True, True)
    assert (whole.cut(2).terminal, whole.cut(2).won) == (False, False)


def test_a_wave_ends_with_the_first_episodes_that_suffice() -> None:
    """However many steps the copies behind them have; what the last episode has too much is left out."""
    for transitions, lengths in ((4, [1, 1, 2]), (5, [1, 1, 2, 1]), (6, [1, 1, 2, 2])):
        env = Script(3)
        assert [episode.length for episode in record(Drawing(), env, transitions, 5)] == lengths
        assert env.stepped == [[0], [0, 1, 2], [1, 2]]


def test_every_copy_plays_one_whole_episode() -> None:
    env = Script(4, per_agent=True)
    found = play(Drawing(), env, 2)
    assert [episode.length for episode in found] == [1, 2, 3, 4]
    assert [episode.total for episode in found] == [1.0, 30.0, 600.0, 10_000.0]
    data = dataset_of(replace(env.spec, task="a/b"), found, Card(task="a/b"))
    assert data.starts.tolist() == [0, 2, 5, 9]
    assert data.returns.tolist() == [1.0, 30.0, 600.0, 10_000.0]
    assert np.flatnonzero(data.terminal).tolist() == [0, 7]
    assert np.flatnonzero(data.truncated).tolist() == [3, 12]


def test_discrete_policies_see_what_is_legal() -> None:
    found = play(Drawing(), Script(3, discrete=True), 2)
    for copy, episode in enumerate(found):
        assert (episode.arrays["action"][:-1] == copy).all()
        assert not episode.won
        assert (episode.arrays["action_mask"].sum(-1) == copy + 1).all()


def test_totals_are_summed_in_double_precision() -> None:
    reward = np.array([1e8, *[1.0] * 1001, 0.0], np.float32)
    assert RecordedEpisode({"reward": reward}).total == 1e8 + 1001


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_episodes_that_are_left_are_kept_as_cut_ones(kind: str) -> None:
    recorder = marlzoo.Recorder(Countdown(kind), "mine/countdown", horizon=8)
    for _ in range(3):
        recorder.reset(seed=4)
        recorder.step({agent: allowed(recorder, agent) for agent in recorder.agents})
    recorder.reset(seed=5)  # without a step there is nothing to keep
    data = recorder.dataset(source="me")
    assert data.lengths.tolist() == [1, 1, 1]
    assert not data.terminal.any()
    assert not data.truncated.any()
    assert data.card.source == "me"
    assert recorder.dataset().episodes == 3
    recorder.reset(seed=6)
    recorder.step({agent: allowed(recorder, agent) for agent in recorder.agents})
    assert recorder.dataset().lengths.tolist() == [1, 1, 1, 1], "the one that goes on is kept as well"


class Full(Policy):
    """Ones everywhere, also where an agent has no such action dimension."""

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        return obs.new_ones(*obs.shape[:3], 2)


def test_dimensions_that_an_agent_lacks_are_recorded_as_zeros() -> None:
    """The toy's second agent has one action dimension of two."""
    env = ToyEnv(4)
    found = dataset_of(env.spec, record(Full(), env, 30, 0), Card(task="toy/walk"))
    steps = found.action[found.sources]
    assert (steps[:, 1] == [1.0, 0.0]).all()
    assert (steps[:, [0, 2]] == 1.0).all()
