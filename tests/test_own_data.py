"""Datasets from one's own arrays, episodes and environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import marlzoo
from marlzoo.data.dataset import Dataset
from marlzoo.errors import DataError, SpecError
from marlzoo.spec import Spec
from tests.test_pettingzoo import Countdown
from tests.toys import toy_dataset

LENGTHS = (3, 1, 4)


def flat(discrete: bool = False) -> dict[str, NDArray[Any]]:
    """Three episodes of 3, 1 and 4 steps: a terminal end, another one, and a time limit."""
    rng = np.random.default_rng(0)
    m = sum(LENGTHS)
    obs, last = rng.normal(size=(m, 2, 3)), rng.normal(size=(len(LENGTHS), 2, 3))
    ends = np.cumsum(LENGTHS) - 1
    following = np.concatenate((obs[1:], obs[:1]))
    following[ends] = last
    terminal, timeout = np.zeros((2, m), bool)
    terminal[ends[:2]], timeout[ends[2]] = True, True
    action = rng.integers(0, 4, (m, 2)) if discrete else rng.uniform(-1, 1, (m, 2, 1))
    steps = {"obs": obs, "action": action, "reward": rng.normal(size=m), "terminal": terminal}
    return {**steps, "timeout": timeout, "next_obs": following}


def test_steps_with_next_observations_keep_every_step() -> None:
    steps = flat()
    data = Dataset.from_steps(**steps, task="mine/toy", quality="good")
    assert data.lengths.tolist() == list(LENGTHS)
    np.testing.assert_array_equal(data.obs[data.sources], steps["obs"].astype(np.float32))
    np.testing.assert_array_equal(data.obs[data.sources + 1], steps["next_obs"].astype(np.float32))
    np.testing.assert_array_equal(data.reward[data.sources], steps["reward"].astype(np.float32))
    np.testing.assert_array_equal(data.terminal[data.sources], steps["terminal"])
    np.testing.assert_array_equal(data.truncated[data.sources], steps["timeout"])
    assert (data.spec.n_agents, data.spec.horizon, data.spec.task, len(data)) == (2, 4, "mine/toy", 3)
    assert data.card.name == "mine/toy/own/good"
    assert data.card.notes == ()


def test_steps_without_next_observations_lose_what_nothing_is_known_of() -> None:
    steps = flat()
    del steps["next_obs"]
    data = Dataset.from_steps(**steps)
    assert data.lengths.tolist() == [3, 1, 3]  # the step cut by the time limit is gone
    assert data.terminal.sum() == 2
    assert data.truncated.sum() == 1
    np.testing.assert_array_equal(data.obs[data.ends[2]], steps["obs"][-1].astype(np.float32))
    assert "1 episodes that did not end" in data.card.notes[0]


def test_discrete_actions_are_all_legal_unless_masked() -> None:
    steps = flat(discrete=True)
    data = Dataset.from_steps(**steps, n_actions=6)
    assert data.spec.action_size == 6
    assert data.action_mask is not None
    assert data.action_mask.all()
    mask = np.ones((sum(LENGTHS), 2, 5), bool)
    mask[0, 1, (steps["action"][0, 1] + 1) % 4] = False
    masked = Dataset.from_steps(**steps, action_mask=mask)
    assert masked.action_mask is not None
    assert masked.action_mask.sum() == masked.action_mask.size - 1


def test_episodes_and_their_views() -> None:
    data = toy_dataset("discrete")
    episodes = [
        {
            k: getattr(e, k)
            for k in ("obs", "state", "action", "reward", "terminal", "truncated", "action_mask")
        }
        for e in data
    ]
    again = Dataset.from_episodes(episodes, spec=data.spec)
    assert again.content_hash == data.content_hash
    assert [len(e) for e in data] == data.lengths.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": np.zeros(7)}, "reward has 7 steps, obs has 8"),
        ({"obs": np.zeros((8, 6))}, r"obs has 2 axes; for a team it is \[M, N, O\]"),
        ({"timeout": np.zeros(8, bool)}, None),
        (
            {"terminal": np.zeros(8, bool)},
            "next_obs of step 2 is not the observation of step 3.*mark the ends",
        ),
        ({"terminal": np.zeros((8, 3, 1))}, r"terminal has shape \(8, 3, 1\)"),
        ({"state": np.zeros((8, 4))}, "state needs next_state"),
        ({"next_obs": np.zeros((8, 2, 4))}, "they must agree"),
        ({"action": np.zeros((8, 2))}, "action has 2 axes; for a team it is .*integers"),
    ],
)
def test_steps_that_do_not_belong_together(change: dict[str, Any], message: str | None) -> None:
    if message is None:  # an end at the last step need not be marked
        assert not Dataset.from_steps(**flat() | change).truncated.any()
        return
    with pytest.raises(DataError, match=message):
        Dataset.from_steps(**flat() | change)


def test_episodes_of_another_form() -> None:
    episode = {"obs": np.zeros((4, 2, 3)), "action": np.zeros((3, 2, 1)), "reward": np.zeros(3)}
    with pytest.raises(DataError, match="episode 1: obs has 3 rows for 3 actions; it needs 4"):
        Dataset.from_episodes([episode, episode | {"obs": np.zeros((3, 2, 3))}])
    with pytest.raises(DataError, match="episode 0 has the unknown key 'rewards'"):
        Dataset.from_episodes([episode | {"rewards": 0}])
    with pytest.raises(DataError, match="only 1 of 2 episodes have state"):
        Dataset.from_episodes([episode, episode | {"state": np.zeros((4, 5))}])
    with pytest.raises(DataError, match="no episode"):
        Dataset.from_episodes([])


def test_repr_is_short() -> None:
    assert repr(toy_dataset("continuous")).startswith("Dataset(")
    assert len(repr(toy_dataset("continuous"))) < 160


def test_spec_from_an_environment() -> None:
    spec = Spec.from_env(Countdown(), horizon=8)
    assert spec.horizon == 8
    assert spec.n_agents == len(Countdown().possible_agents)
    assert Spec.from_env(marlzoo.make_env("games/xor")) == marlzoo.make_env("games/xor").spec
    with pytest.raises(SpecError, match="states no time limit"):
        Spec.from_env(Countdown())


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_the_recorder_keeps_what_learners_see(kind: str) -> None:
    """The same actions in the adapter's environment give the recorded observations, rewards and ends."""
    recorder = marlzoo.Recorder(Countdown(kind), "mine/countdown", horizon=8)
    played: list[tuple[int, list[dict[str, Any]]]] = []
    for seed in range(3):
        recorder.reset(seed=seed)
        taken = []
        while recorder.agents:
            taken.append({agent: allowed(recorder, agent) for agent in recorder.agents})
            recorder.step(taken[-1])
        played.append((seed, taken))
    data = recorder.dataset(quality="random")
    assert data.lengths.tolist() == [len(taken) for _, taken in played]
    assert data.card.name == "mine/countdown/own/random"
    assert data.spec == recorder.spec
    for episode, (seed, taken) in zip(data, played, strict=True):
        env = Countdown(kind)
        env.reset(seed=seed)
        for step, actions in enumerate(taken):
            left = env.left
            _, rewards, *_ = env.step(actions)
            assert episode.obs[step, 0, 0] == left
            np.testing.assert_array_equal(
                episode.reward[step], [rewards.get(a, 0.0) for a in ("left", "right")]
            )
        assert episode.terminal == (env.left <= 0)
        assert episode.truncated == (env.left > 0)
    with pytest.raises(DataError, match="call reset first"):
        recorder.step({})


def allowed(env: Any, agent: str) -> Any:
    """An action that the environment's own mask admits."""
    space = env.action_space(agent)
    return space.start if hasattr(space, "start") else space.high
