"""Datasets from one's own arrays, episodes and environments."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import marlzoo
from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.errors import ConfigError, DataError, SpecError, UnknownNameError
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
    assert data.card.notes[0].startswith("1 episode without a terminal end lost the last step")


def test_without_next_observations_final_rows_repeat_terminal_ones() -> None:
    steps = flat()
    following = steps.pop("next_obs")
    data = Dataset.from_steps(**steps)
    assert np.flatnonzero(data.terminal).tolist() == [2, 4]
    assert np.flatnonzero(data.truncated).tolist() == [8]
    for episode, rows in enumerate(((0, 1, 2, 2), (3, 3), (4, 5, 6, 7))):
        found = data.obs[data.starts[episode] : data.ends[episode] + 1]
        np.testing.assert_array_equal(found, steps["obs"][list(rows)].astype(np.float32))
    assert "final observations of terminal episodes repeat the last one" in data.card.notes[1]
    del steps["timeout"]
    cut = Dataset.from_steps(**steps)
    assert not cut.truncated.any()
    assert cut.lengths.tolist() == [3, 1, 3]
    endless = Dataset.from_steps(**steps | {"terminal": np.zeros(8, bool)})
    assert endless.card.notes[0] == "no step ends an episode: all 8 steps are read as one"
    assert not endless.card.bounds_known  # methods that read sequences refuse it
    assert cut.card.bounds_known
    steps["timeout"] = np.arange(8) >= 6  # the last step is an episode of its own
    with pytest.raises(
        DataError,
        match=r"episode 3 has a single step \(step 7\), and what it led to is not known; give next_obs",
    ):
        Dataset.from_steps(**steps)
    both = Dataset.from_steps(**steps | {"terminal": np.ones(8, bool), "next_obs": following})
    assert both.terminal.sum() == 8
    assert not both.truncated.any(), "what is both is terminal"


def test_states_and_masks_of_final_rows_are_those_that_follow() -> None:
    steps, m = flat(discrete=True), sum(LENGTHS)
    rng = np.random.default_rng(1)
    state, following = rng.normal(size=(2, m, 5))
    mask, next_mask = np.ones((2, m, 2, 4), bool)
    next_mask[:, 0, 3] = False
    more = {"state": state, "next_state": following, "action_mask": mask}
    data = Dataset.from_steps(**steps, **more, next_action_mask=next_mask)
    ends = np.cumsum(LENGTHS) - 1
    np.testing.assert_array_equal(data.state[data.sources], state.astype(np.float32))
    np.testing.assert_array_equal(data.state[data.ends], following[ends].astype(np.float32))
    assert data.action_mask is not None
    assert data.action_mask[data.sources].all()
    assert not data.action_mask[data.ends, 0, 3].any()
    plain = Dataset.from_steps(**steps, **more)
    assert plain.action_mask is not None
    assert plain.action_mask.all()
    assert data.spec.state_size == 5
    with pytest.raises(DataError, match="next_state is given without state"):
        Dataset.from_steps(**steps, next_state=following)


def test_flags_and_rewards_per_agent() -> None:
    """An episode is over when it is for all; a column of rewards is the team's."""
    steps, m = flat(), sum(LENGTHS)
    plain = Dataset.from_steps(**steps)
    each = np.stack((steps["terminal"], np.ones(m, bool)), 1)
    assert Dataset.from_steps(**steps | {"terminal": each}).content_hash == plain.content_hash
    column = Dataset.from_steps(**steps | {"reward": steps["reward"][:, None]})
    assert column.content_hash == plain.content_hash
    paid = Dataset.from_steps(
        **steps | {"reward": np.stack((steps["reward"], steps["reward"] + 2), 1)}, horizon=9
    )
    assert paid.spec.reward_per_agent
    assert paid.spec.horizon == 9
    np.testing.assert_allclose(paid.returns, plain.returns + plain.lengths, rtol=1e-5)


def test_episodes_by_hand() -> None:
    obs, action = np.arange(24.0).reshape(4, 2, 3), np.array([[0, 1], [2, 0], [1, 1]])
    first = {"obs": obs, "action": action, "reward": [1.0, 2.0, 3.0], "terminal": True}
    second = {
        "obs": obs + 1,
        "action": action,
        "reward": [[4.0], [5.0], [6.0]],
        "truncated": [False, False, True],
    }
    data = Dataset.from_episodes([first, second, {**first, "terminal": False}])
    assert data.starts.tolist() == [0, 4, 8]
    assert data.returns.tolist() == [6.0, 15.0, 6.0]
    assert np.flatnonzero(data.terminal).tolist() == [2]
    assert np.flatnonzero(data.truncated).tolist() == [6]
    assert (data.spec.action_size, data.spec.state_size, data.spec.horizon) == (3, 6, 3)
    for change, text in (
        ({"terminal": [True, False, True]}, "episode 0: terminal must be one flag"),
        ({"terminal": [True, True]}, "episode 0: terminal must be one flag"),
        ({"reward": [1.0]}, "episode 0: reward has 1 entries for 3 actions"),
    ):
        with pytest.raises(DataError, match=text):
            Dataset.from_episodes([first | change])
    with pytest.raises(DataError, match="episode 0 lacks reward"):
        Dataset.from_episodes([{"obs": obs, "action": action}])


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
        ({"obs": np.zeros((8, 6))}, r"obs has shape \(8, 6\); for a team it is \[M, N, O\]"),
        ({"timeout": np.zeros(8, bool)}, None),
        (
            {"terminal": np.zeros(8, bool)},
            "next_obs of step 2 is not the observation of step 3.*mark the ends",
        ),
        ({"terminal": np.zeros((8, 3, 1))}, r"terminal has shape \(8, 3, 1\)"),
        ({"state": np.zeros((8, 4))}, "state is given without next_state"),
        ({"next_obs": np.zeros((8, 2, 4))}, "they must agree"),
        (
            {"next_obs": None, "next_state": np.zeros((8, 4))},
            "next_state is given without next_obs; give both",
        ),
        ({"reward": 1.0}, "reward is a single number; give one entry per step"),
        ({"n_actions": 3}, "n_actions is about discrete actions, but action holds floats"),
        ({"horizon": 0}, "horizon is 0; it must be a positive number"),
        ({"action": np.zeros((8, 2))}, r"a step's action has shape \(2,\); for N agents it is .*integers"),
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
    with pytest.raises(DataError, match="1 of 2 episodes have state; give it in all or in none"):
        Dataset.from_episodes([episode, episode | {"state": np.zeros((4, 5))}])
    for flag in (np.zeros(2, bool), np.array([True, False, False])):
        with pytest.raises(
            DataError, match="episode 0: terminal must be one flag, which is about the episode's last step"
        ):
            Dataset.from_episodes([episode | {"terminal": flag}])
    with pytest.raises(DataError, match="no episode"):
        Dataset.from_episodes([])
    with pytest.raises(DataError, match=r"episode 1 is of type Episode; an episode is a dictionary with obs"):
        Dataset.from_episodes([episode, next(iter(toy_dataset("continuous")))])  # type: ignore[list-item]
    with pytest.raises(DataError, match="episode 0 has no action; leave episodes without a step out"):
        Dataset.from_episodes([{"obs": np.zeros((1, 2, 3)), "action": np.zeros((0, 2, 1)), "reward": []}])
    with pytest.raises(DataError, match="episode 0: action is a single number"):
        Dataset.from_episodes([episode | {"action": 1.0}])
    with pytest.raises(DataError, match="episode 0: terminal has type <U2, such as no; give numbers"):
        Dataset.from_episodes([episode | {"terminal": "no"}])
    with pytest.raises(
        DataError, match=r"episode 1: a step's obs has shape \(2, 4\), in episode 0 it has \(2, 3\)"
    ):
        Dataset.from_episodes([episode, episode | {"obs": np.zeros((4, 2, 4))}])
    with pytest.raises(DataError, match=r"a step's obs has shape \(6,\); for N agents it is \[N, O\]"):
        Dataset.from_episodes([episode | {"obs": np.zeros((4, 6))}])


def test_options_that_contradict_the_episodes_or_the_spec() -> None:
    episode = {"obs": np.zeros((4, 2, 3)), "action": np.zeros((3, 2), int), "reward": np.zeros(3)}
    short = {"obs": np.zeros((3, 2, 3)), "action": np.zeros((2, 2), int), "reward": np.zeros(2)}
    with pytest.raises(
        DataError, match=r"^an episode of 3 steps begins at episode 1, step 0, but the horizon is 2; let"
    ):
        Dataset.from_episodes([short, episode], n_actions=4, horizon=2)
    spec = Dataset.from_episodes([episode], n_actions=4, horizon=9).spec
    assert Dataset.from_episodes([episode], spec=spec, n_actions=4, horizon=9).spec == spec
    for name, stated in (("n_actions", 4), ("horizon", 9)):
        options: Any = {name: 5}
        with pytest.raises(
            DataError, match=f"{name} is 5, but the spec says {stated}; leave {name} out, or change"
        ):
            Dataset.from_episodes([episode], spec=spec, **options)


def test_repr_is_short() -> None:
    assert repr(toy_dataset("continuous")).startswith("Dataset(")
    assert len(repr(toy_dataset("continuous"))) < 160
    steps = flat()
    data = Dataset.from_steps(**steps)
    assert repr(data).startswith("Dataset(3 episodes, 8 transitions, 2 agents, continuous actions, return ")
    assert repr(Dataset.from_steps(**steps, task="lab/x", source="")).startswith(
        "Dataset(lab/x: 3 episodes, "
    )
    first, second, third = data
    assert repr(first) == f"Episode(3 steps, return {steps['reward'][:3].sum():.1f}, terminal)"
    assert repr(second).startswith("Episode(1 step, ")
    assert repr(third).endswith(", time limit)")


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


def test_a_dataset_is_saved_in_the_format_that_its_name_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path))
    data = toy_dataset("discrete")
    file = tmp_path / "mine.npz"
    for target in (file, tmp_path / "mine.hdf5", "lab/walk/own/mine"):
        wanted = data if target != "lab/walk/own/mine" else replace(data, card=Card())
        path = marlzoo.save_dataset(wanted, target)
        assert path.exists()
        assert marlzoo.load_dataset(target).transitions == data.transitions
    assert marlzoo.load_dataset(path).card.name == "lab/walk/own/mine"  # stated in the file itself
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=r"mine\.npz: exists already.*force=True"):
        marlzoo.save_dataset(data, file)
    assert file.read_bytes() == before
    assert marlzoo.save_dataset(data, file, force=True) == file
    with pytest.raises(ConfigError, match="end the file's name"):
        marlzoo.save_dataset(data, tmp_path / "mine.csv")
    with pytest.raises(UnknownNameError, match="format to write"):
        marlzoo.save_dataset(data, tmp_path / "mine.npz", format="numpy")


def a_family(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """An environment family of one's own with a task of two unequal agents, 25 steps long."""
    (folder / "unequal.py").write_text(
        "from marlzoo.spec import Spec\nTASKS = ('walk',)\n\ndef spec(name):\n"
        f"    return Spec(n_agents=2, obs_size=3, state_size=6, action_kind={kind!r}, action_size=5, horizon=25,\n"
        "        obs_sizes=(3, 2), action_sizes=(5, 4))\n\ndef make(name, num_envs):\n    raise NotImplementedError\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("MARLZOO_ENVIRONMENTS", "unequal")
    monkeypatch.delitem(sys.modules, "unequal", raising=False)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_data_of_a_known_task_have_its_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    a_family(tmp_path, monkeypatch, kind)
    action = np.zeros((8, 2), int) if kind == "discrete" else np.zeros((8, 2, 5))
    steps = flat() | {"action": action}
    for name in ("obs", "next_obs"):
        steps[name][:, 1, 2] = 0.0
    known = marlzoo.families.task_spec("unequal/walk")
    data = Dataset.from_steps(**steps, task="unequal/walk")
    assert data.spec == known
    if kind == "discrete":
        assert data.action_mask is not None
        assert data.action_mask[0].sum(-1).tolist() == [5, 4]  # what nobody took is there, and padding is not
    obs = np.zeros((4, 2, 3))
    episode = {"obs": obs, "action": action[:3], "reward": np.ones(3), "truncated": True}
    assert Dataset.from_episodes([episode], task="unequal/walk").spec == known
    # What is said, or shown, of a task with other options than its defaults holds.
    assert Dataset.from_episodes([episode], task="unequal/walk", horizon=20).spec.horizon == 20
    if kind == "discrete":
        assert Dataset.from_episodes([episode], task="unequal/walk", n_actions=6).spec.action_size == 6
    long = {"obs": np.zeros((31, 2, 3)), "action": np.zeros((30, *action.shape[1:]), action.dtype)}
    assert Dataset.from_episodes([long | {"reward": np.ones(30)}], task="unequal/walk").spec.horizon == 30
    wide = Dataset.from_episodes([episode | {"obs": np.zeros((4, 2, 9))}], task="unequal/walk")
    assert (wide.spec.obs_size, wide.spec.task) == (9, "unequal/walk")
    with pytest.raises(DataError, match="obs of agent 1 has numbers behind its 2 entries in unequal/walk"):
        Dataset.from_episodes([episode | {"obs": np.ones((4, 2, 3))}], task="unequal/walk")
    if kind == "continuous":
        with pytest.raises(
            DataError, match="action of agent 1 has numbers behind its 4 entries in unequal/walk"
        ):
            Dataset.from_episodes([episode | {"action": np.full((3, 2, 5), 0.5)}], task="unequal/walk")
