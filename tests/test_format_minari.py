"""Minari: what Minari writes is read, what is written here Minari opens; teams, spaces, damage."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from hypothesis import given

from marlzoo.data.card import Card
from marlzoo.data.check import check
from marlzoo.data.convert import convert
from marlzoo.data.formats.minari import read_minari, write_minari
from marlzoo.data.load import load_dataset
from marlzoo.data.readers import find_reader
from marlzoo.envs.pettingzoo import from_parallel_env
from marlzoo.errors import DataError, OutputError
from marlzoo.spec import Spec
from marlzoo.system.files import temporary_beside
from tests.broken_environments import Sound
from tests.data_samples import DISCRETE, SPEC, sample
from tests.format_files import DAMAGE, Damage, contents, damaging, equal, outcome, same, write_damaged

UNEVEN = Spec(
    n_agents=12, obs_size=3, state_size=36, action_kind="continuous", action_size=2, horizon=50,
    obs_sizes=(3,) * 11 + (1,), action_sizes=(2,) * 11 + (1,),
)  # fmt: skip
PER_AGENT = Spec(
    n_agents=2, obs_size=3, state_size=6, action_kind="continuous", action_size=2, horizon=50,
    reward_per_agent=True,
)  # fmt: skip


def datasets() -> list[Any]:
    uneven = sample(spec=UNEVEN)
    obs, action = uneven.obs.copy(), uneven.action.copy()
    obs[:, 11, 1:], action[:, 11, 1:] = 0, 0
    rewards = np.random.default_rng(0).standard_normal((12, 2)).astype(np.float32)
    return [
        sample(spec=SPEC),
        sample(spec=DISCRETE),
        sample(spec=UNEVEN, obs=obs, action=action),
        sample(spec=PER_AGENT, reward=rewards),
    ]


@pytest.mark.parametrize("which", range(4))
def test_round_trip(tmp_path: Path, which: int) -> None:
    dataset = datasets()[which]
    written = write_minari(dataset, tmp_path / "toy-v0")
    assert find_reader(tmp_path / "toy-v0").read is read_minari
    for path in (tmp_path / "toy-v0", tmp_path / "toy-v0/data", tmp_path / "toy-v0/data/main_data.hdf5"):
        back = load_dataset(path)
        assert same(back, dataset)
        assert back.card == written.card


def test_conversion(tmp_path: Path) -> None:
    write_minari(sample(spec=DISCRETE), tmp_path / "toy-v0")
    convert(tmp_path / "toy-v0", tmp_path / "a.hdf5")
    convert(tmp_path / "a.hdf5", tmp_path / "other-v1")
    assert same(load_dataset(tmp_path / "other-v1"), sample(spec=DISCRETE))


def strip(folder: Path, **changes: Any) -> Path:
    """Take what only marlzoo writes out of the metadata, and change other entries."""
    place = folder / "data/metadata.json"
    values = json.loads(place.read_text())
    del values["marlzoo"]
    place.write_text(json.dumps(values | changes))
    return folder


@pytest.mark.parametrize("which", range(4))
def test_without_our_header_the_mapping_alone_tells(tmp_path: Path, which: int) -> None:
    dataset = datasets()[which]
    write_minari(dataset, tmp_path / "toy-v0")
    back = read_minari(strip(tmp_path / "toy-v0"), horizon=50)
    assert same(back, dataset)
    assert back.card.source == "minari"
    assert read_minari(tmp_path / "toy-v0").spec.horizon == 4


def test_boxes_and_choices_that_begin_elsewhere(tmp_path: Path) -> None:
    write_minari(sample(), tmp_path / "toy-v0")
    box = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -2], "high": [1, 6]}
    spaces = json.dumps({"type": "Dict", "subspaces": {"agent_0": box, "agent_1": box}})
    back = read_minari(strip(tmp_path / "toy-v0", action_space=spaces))
    np.testing.assert_allclose(back.action[0, 0, 1], (sample().action[0, 0, 1] + 2) / 4 - 1, rtol=1e-6)
    equal(back.action[0, 0, 0], sample().action[0, 0, 0])
    box["high"] = [1, -2]  # without width: nothing to be brought to [-1, 1]
    spaces = json.dumps({"type": "Dict", "subspaces": {"agent_0": box, "agent_1": box}})
    write_minari(sample(), tmp_path / "narrow-v0")
    narrow = read_minari(strip(tmp_path / "narrow-v0", action_space=spaces))
    equal(narrow.action[narrow.sources], sample().action[narrow.sources])
    write_minari(sample(spec=DISCRETE), tmp_path / "other-v0")
    choice = {"type": "Discrete", "dtype": "int64", "start": -3, "n": 9}
    spaces = json.dumps({"type": "Dict", "subspaces": {"agent_0": choice, "agent_1": choice}})
    with h5py.File(tmp_path / "other-v0/data/main_data.hdf5", "r+") as file:
        for episode in file.values():
            del episode["infos/legals"]
    back = read_minari(strip(tmp_path / "other-v0", action_space=spaces))
    equal(back.action[back.sources], sample(spec=DISCRETE).action[back.sources] + 3)
    assert back.spec.action_size == 9


def record(folder: Path, minari: Any, tuples: bool) -> None:
    """A dataset of two agents recorded by Minari itself."""
    spaces = gymnasium.spaces
    box, choice = spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(4)
    rng = np.random.default_rng(0)

    def team(values: Any) -> Any:
        return tuple(values) if tuples else {"left": values[0], "right": values[1]}

    buffers = []
    for k, length in enumerate((3, 5)):
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=k,
                observations=team(
                    [rng.standard_normal((length + 1, 3)).astype(np.float32) for _ in range(2)]
                ),
                actions=team([rng.integers(0, 4, length) for _ in range(2)]),
                rewards=list(rng.standard_normal(length)),
                terminations=[False] * (length - 1) + [k == 0],
                truncations=[False] * (length - 1) + [k == 1],
                infos={
                    "agent_rewards": rng.standard_normal((length, 2)),
                    "state": rng.standard_normal((length + 1, 5)).astype(np.float32),
                    "legals": np.ones((length + 1, 2, 4), bool),
                },
            )
        )
    both = (spaces.Tuple if tuples else spaces.Dict)(team([box, box]))
    actions = (spaces.Tuple if tuples else spaces.Dict)(team([choice, choice]))
    minari.create_dataset_from_buffers(
        "toy-v0", buffers, observation_space=both, action_space=actions, requirements=[]
    )


@pytest.fixture
def minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return pytest.importorskip("minari", reason="needs Minari: pip install 'marlzoo[minari]'")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tuples", [True, False])
def test_what_minari_records_is_read(tmp_path: Path, minari: Any, tuples: bool) -> None:
    record(tmp_path, minari, tuples)
    dataset = load_dataset(tmp_path / "toy-v0")
    equal(dataset.lengths, [3, 5])
    equal(np.flatnonzero(dataset.terminal), [2])
    equal(np.flatnonzero(dataset.truncated), [dataset.ends[1] - 1])
    assert (dataset.spec.n_agents, dataset.spec.state_size, dataset.spec.action_size) == (2, 5, 4)
    assert dataset.spec.reward_per_agent
    for episode, start, end in zip(
        minari.load_dataset("toy-v0").iterate_episodes(), dataset.starts, dataset.ends, strict=True
    ):
        keys = (0, 1) if tuples else ("left", "right")
        for i, key in enumerate(keys):
            equal(dataset.obs[start : end + 1, i], episode.observations[key])
            equal(dataset.action[start:end, i], episode.actions[key])
        equal(dataset.reward[start:end], episode.infos["agent_rewards"].astype(np.float32))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", range(4))
def test_minari_opens_what_is_written_here(tmp_path: Path, minari: Any, which: int) -> None:
    dataset = datasets()[which]
    write_minari(dataset, tmp_path / "toy-v0")
    opened = minari.load_dataset("toy-v0")
    assert (opened.total_episodes, opened.total_steps) == (3, 9)
    for k, episode in enumerate(opened.iterate_episodes()):
        rows = slice(dataset.starts[k], dataset.ends[k] + 1)
        for i, (size, actions) in enumerate(
            zip(dataset.spec.obs_sizes, dataset.spec.action_sizes, strict=True)
        ):
            equal(episode.observations[f"agent_{i}"], dataset.obs[rows, i, :size])
            own = dataset.action[rows, i][:-1]
            equal(episode.actions[f"agent_{i}"], own if dataset.spec.discrete else own[:, :actions])
        assert opened.observation_space.contains({key: v[0] for key, v in episode.observations.items()})
        assert bool(episode.terminations[-1]) == bool(dataset.terminal[rows][-2])


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: holds no data/main_data\.hdf5"):
        read_minari(tmp_path / "nothing")
    folder = tmp_path / "toy-v0"
    write_minari(sample(), folder)
    with pytest.raises(OutputError, match="it exists; remove it"):
        write_minari(sample(seed=1), folder)
    write_minari(sample(), folder)  # it is there already
    good = contents(folder)

    def refused(match: str, change: Any) -> None:
        write_damaged(folder, good, (0, None, []))
        change()
        with pytest.raises(DataError, match=rf"\A[^\n]*toy-v0[^\n]*{match}"):
            read_minari(folder)

    def values(**changes: Any) -> Any:
        return lambda: strip(folder, **changes)

    def edit(name: str, value: Any) -> Any:
        def change() -> None:
            with h5py.File(folder / "data/main_data.hdf5", "r+") as file:
                del file[name]
                if value is not None:
                    file[name] = value

        return change

    def other_card() -> None:
        place = folder / "data/metadata.json"
        place.write_text(place.read_text().replace('\\"horizon\\": 50', '\\"horizon\\": 51'))

    with pytest.raises(DataError, match="its horizon is 50, not 7"):
        read_minari(folder, horizon=7)
    refused(r"its card in metadata\.json", other_card)
    refused("stored as arrow; save it as hdf5", values(data_format="arrow"))
    refused("has no action_space", values(action_space=None))
    refused("action_space in metadata.json is damaged", values(action_space="{"))
    refused("action_space in metadata.json is damaged", values(action_space="[" * 10_000))
    refused("actions is of type Text", values(action_space='{"type": "Text"}'))
    one = json.dumps({"type": "Dict", "subspaces": {"agent_0": {"type": "Discrete", "n": 2}}})
    refused(
        "observations have the parts agent_0, agent_1, its actions agent_0; .*the same keys",
        values(action_space=one),
    )
    kinds = spaces_of(agent_0={"type": "Discrete", "n": 2}, agent_1=BOX)
    refused("some agents have continuous actions, others discrete", values(action_space=json.dumps(kinds)))
    refused("the group 'actions' is missing in /episode_1", edit("episode_1/actions", None))
    refused("'agent_1' is missing", edit("episode_1/actions/agent_1", None))
    refused(r"episode_1: agent_1 has shape \(2,\)", edit("episode_1/actions/agent_1", np.zeros(2)))
    refused("terminations of episode_0 is 2", edit("episode_0/terminations", np.full(2, 2)))
    refused("terminal is set at episode 0, step 0", edit("episode_0/terminations", np.ones(2)))
    refused(
        "reward holds NaN, first at episode 1, step 1", edit("episode_1/rewards", np.array([0, np.nan, 0]))
    )
    refused("episode_0 has no step", edit("episode_0/rewards", np.zeros(0)))
    refused("its content is not what its card says", edit("episode_0/rewards", np.zeros(2)))


BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1.0] * 2, "high": [1.0] * 2}
CHOICE = {"type": "Discrete", "dtype": "int64", "start": 1, "n": 3}


def spaces_of(**inside: Any) -> dict[str, Any]:
    return {"type": "Dict", "subspaces": inside}


def raw(folder: Path, seen: Any, done: Any, episodes: list[dict[str, Any]]) -> Path:
    """A dataset of somebody else: two steps per episode, arrays by their path."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    metadata = {"observation_space": json.dumps(seen), "action_space": json.dumps(done), "dataset_id": "x-v0"}
    (folder / "data/metadata.json").write_text(json.dumps(metadata))
    with h5py.File(folder / "data/main_data.hdf5", "w") as file:
        for k, arrays in enumerate(episodes):
            usual = {"rewards": np.ones(2), "terminations": [False, True], "truncations": [False, False]}
            for name, values in {**usual, **arrays}.items():
                file[f"episode_{k}/{name}"] = values
    return folder


def test_episodes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    seen = [{"observations": np.full((3, 2), k), "actions": np.zeros((2, 2))} for k in range(12)]
    data = read_minari(raw(tmp_path / "x-v0", BOX, BOX, seen))
    equal(data.obs[data.starts, 0, 0], np.arange(12))


def test_agents_keep_their_names_in_natural_order(tmp_path: Path) -> None:
    """The k-th agent of the data is the k-th of an environment that lists its agents as people do."""
    names = ["adversary_0", "adversary_1", "adversary_10", "agent_0", "agent_2", "agent_10"]
    shuffled = [names[k] for k in (4, 1, 5, 0, 3, 2)]
    arrays = {f"observations/{name}": np.full((3, 2), k) for k, name in enumerate(names)}
    arrays |= {f"actions/{name}": np.full((2, 2), k / 10) for k, name in enumerate(names)}
    whole = spaces_of(**dict.fromkeys(shuffled, BOX))
    folder = raw(tmp_path / "x-v0", whole, whole, [arrays])
    data = read_minari(folder)
    assert data.card.options["agents"] == names
    equal(data.obs[0, :, 0], np.arange(6))
    np.testing.assert_allclose(data.action[0, :, 0], np.arange(6) / 10)
    turned = read_minari(folder, agents=",".join(shuffled))
    equal(turned.obs[0, :, 0], [4, 1, 5, 0, 3, 2])
    convert(folder, tmp_path / "again-v0", agents=",".join(shuffled))
    back = load_dataset(tmp_path / "again-v0")
    assert back.card.options["agents"] == shuffled
    equal(back.obs, turned.obs)
    equal(read_minari(tmp_path / "again-v0", agents=",".join(names)).obs, data.obs)
    with pytest.raises(DataError, match="list each of them once, not a, b"):
        read_minari(folder, agents="a,b")


def test_names_that_cannot_be_keys_are_replaced_by_numbers(tmp_path: Path) -> None:
    plain = sample()
    named = plain.with_card(Card(options={"agents": ["b/x", "a"]}))
    write_minari(named, tmp_path / "x-v0")
    assert same(load_dataset(tmp_path / "x-v0"), plain)


class Named(Sound):
    """An environment whose agents have names of their own."""

    names: tuple[str, ...] = ("adversary_0", "agent_0")

    def __init__(self) -> None:
        self.possible_agents, self.agents = list(self.names), []

    def action_space(self, agent: str) -> Any:
        return gymnasium.spaces.Box(-1, 1, (2,))

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.time, self.agents = 0, list(self.names)
        return {name: np.zeros(2, np.float32) for name in self.names}, {name: {} for name in self.names}

    def state(self) -> Any:
        return np.zeros(4)


def test_agents_in_other_places_are_refused(tmp_path: Path) -> None:
    names = Named.names
    arrays = {f"observations/{name}": np.zeros((3, 2)) for name in names}
    arrays |= {f"actions/{name}": np.zeros((2, 2)) for name in names}
    whole = spaces_of(**dict.fromkeys(names, BOX))
    data = read_minari(raw(tmp_path / "x-v0", whole, whole, [arrays]))

    class Turned(Named):
        names = ("agent_0", "adversary_0")

    class Others(Named):
        names = ("left", "right")

    def report(kind: Any) -> Any:
        return check(data, from_parallel_env(kind, 1, task="own/named", horizon=2, reward="sum"))

    assert report(Named).agrees
    assert "agents: adversary_0, agent_0 != agent_0, adversary_0 (another order" in report(Turned).failures[0]
    assert "agents=agent_0,adversary_0" in report(Turned).failures[0]
    assert "agents: adversary_0, agent_0 != left, right" in report(Others).failures[0]


def test_infos_that_only_some_episodes_have(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {f"observations/{name}": np.zeros((3, 2)) for name in "ab"}
    arrays |= {f"actions/{name}": np.ones(2, int) for name in "ab"}
    infos = {
        "infos/agent_rewards": np.ones((2, 2)),
        "infos/state": np.ones((3, 4)),
        "infos/legals": np.ones((3, 2, 3), bool),
    }
    both = (spaces_of(a=BOX, b=BOX), spaces_of(a=CHOICE, b=CHOICE))
    assert read_minari(raw(tmp_path / "x-v0", *both, [arrays | infos] * 2)).spec.state_size == 4
    for name, values in infos.items():
        for episodes, missing in (
            ([arrays, arrays | {name: values}], 0),
            ([arrays | {name: values}, arrays], 1),
        ):
            raw(tmp_path / "x-v0", *both, episodes)
            with pytest.raises(DataError, match=f"{name} is there in 1 of 2 episodes, .*episode_{missing}"):
                read_minari(tmp_path / "x-v0")
    short = arrays | {"infos/state": np.ones((2, 4))}
    with pytest.raises(DataError, match=r"episode_0: infos/state has 2 rows, one too few: the reset's entry"):
        read_minari(raw(tmp_path / "x-v0", *both, [short]))


def test_parts_of_one_agent_are_not_agents(tmp_path: Path) -> None:
    goal = spaces_of(observation=BOX, achieved_goal=CHOICE, buttons={"type": "MultiBinary", "n": 2})
    arrays = {
        "observations/observation": np.full((3, 2), 7),
        "observations/achieved_goal": np.array([1, 3, 2]),
        "observations/buttons": np.array([[0, 1]] * 3),
        "actions": np.zeros((2, 2)),
    }
    data = read_minari(raw(tmp_path / "x-v0", goal, BOX, [arrays]))
    assert (data.spec.n_agents, data.spec.obs_size) == (1, 7)
    equal(data.obs[1, 0], [0, 0, 1, 0, 1, 7, 7])
    assert any("the one agent's observation" in note for note in data.card.notes)
    with pytest.raises(DataError, match=r"it has one agent, .*leave the option agents out"):
        read_minari(tmp_path / "x-v0", agents="a")
    robot = (spaces_of(camera=BOX, joints=BOX), spaces_of(arm=BOX, gripper=BOX))
    with pytest.raises(DataError, match=r"parts camera, joints, its actions arm, gripper; .*into one Box"):
        read_minari(raw(tmp_path / "x-v0", *robot, [arrays]))
    with pytest.raises(DataError, match="actions have the parts arm, gripper, its observations are one Box"):
        read_minari(raw(tmp_path / "x-v0", BOX, robot[1], [arrays]))
    wrong = arrays | {"observations/achieved_goal": np.array([1, 4, 2])}
    with pytest.raises(
        DataError, match="episode_0: observations/achieved_goal is 4 at 1, not one of 3 choices"
    ):
        read_minari(raw(tmp_path / "x-v0", goal, BOX, [wrong]))
    text = spaces_of(observation=BOX, name={"type": "Text"})
    with pytest.raises(DataError, match="observations/name is of type Text; a Box"):
        read_minari(raw(tmp_path / "x-v0", text, BOX, [arrays]))


def test_masks_that_everything_passes(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {f"observations/{name}": np.zeros((3, 2)) for name in "ab"}
    arrays |= {f"actions/{name}": np.ones(2, int) for name in "ab"}
    both = (spaces_of(a=BOX, b=BOX), spaces_of(a=CHOICE, b={**CHOICE, "n": 2}))
    folder = raw(tmp_path / "x-v0", *both, [arrays])
    assert read_minari(folder).action_mask is None
    data = read_minari(folder, action_mask="all")
    assert data.action_mask is not None
    equal(data.action_mask[0], [[True] * 3, [True, True, False]])
    raw(tmp_path / "x-v0", *both, [arrays | {"infos/legals": np.ones((3, 2, 3))}])
    with pytest.raises(DataError, match="masks of its own"):
        read_minari(folder, action_mask="all")


def test_masks_of_continuous_actions_are_refused(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {f"observations/{name}": np.zeros((3, 2)) for name in "ab"}
    arrays |= {f"actions/{name}": np.zeros((2, 2)) for name in "ab"}
    folder = raw(tmp_path / "x-v0", spaces_of(a=BOX, b=BOX), spaces_of(a=BOX, b=BOX), [arrays])
    assert not read_minari(folder).spec.discrete
    with pytest.raises(DataError, match="the option action_mask is about discrete actions, but"):
        read_minari(folder, action_mask="all")


def test_flags_that_meet_and_rewards_that_begin_at_the_reset(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {f"observations/{name}": np.zeros((3, 2)) for name in "ab"}
    arrays |= {f"actions/{name}": np.ones(2, int) for name in "ab"} | {"truncations": [False, True]}
    both = (spaces_of(a=BOX, b=BOX), spaces_of(a=CHOICE, b={**CHOICE, "n": 2}))
    data = read_minari(raw(tmp_path / "x-v0", *both, [arrays]))
    assert (data.terminal.sum(), data.truncated.sum()) == (1, 0)
    raw(tmp_path / "x-v0", *both, [arrays | {"infos/legals": np.ones((3, 2, 2))}])
    with pytest.raises(DataError, match=r"infos/legals has shape \(3, 2, 2\), expected \(3, 2, 3\)"):
        read_minari(tmp_path / "x-v0")
    own = datasets()[3]
    write_minari(own, tmp_path / "toy-v0")
    with h5py.File(tmp_path / "toy-v0/data/main_data.hdf5", "r+") as file:
        for episode in file.values():
            paid = episode["infos/agent_rewards"][()]
            del episode["infos/agent_rewards"]
            episode["infos/agent_rewards"] = np.concatenate(
                [np.full((1, 2), 9.0), paid[-len(episode["rewards"]) :]]
            )
    equal(read_minari(tmp_path / "toy-v0").reward, own.reward)


def test_images_masks_and_pairings(tmp_path: Path) -> None:
    image = {"type": "Box", "dtype": "uint8", "shape": [2, 2], "low": [[0] * 2] * 2, "high": [[255] * 2] * 2}
    masked = spaces_of(observation=image, action_mask={"type": "MultiBinary", "n": 3})
    pictures = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    arrays = {
        "observations/a/observation": pictures,
        "observations/a/action_mask": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], np.int8),
        "observations/b/observation": pictures,
        "observations/b/action_mask": np.ones((3, 3), np.int8),
        "actions/a": np.array([2, 3]),
        "actions/b": np.array([1, 1]),
    }
    spaces = (spaces_of(a=masked, b=masked), spaces_of(a=CHOICE, b=CHOICE))
    data = read_minari(raw(tmp_path / "x-v0", *spaces, [arrays]))
    equal(data.obs[1, 0], [4, 5, 6, 7])
    assert data.action_mask is not None
    equal(data.action_mask[:, 0], [[False, True, True], [True, False, True], [True] * 3])
    del arrays["observations/b/action_mask"]
    fewer = (spaces_of(a=masked, b=spaces_of(observation=image)), spaces_of(a=CHOICE, b={**CHOICE, "n": 2}))
    data = read_minari(raw(tmp_path / "x-v0", *fewer, [arrays]))
    assert data.action_mask is not None
    equal(data.action_mask[:, 1], [[True, True, False]] * 3)
    pairs = {f"observations/_index_{k}": np.full((3, 2), k) for k in range(2)}
    pairs |= {"actions/a": np.array([1, 1]), "actions/b": np.array([2, 2])}
    seen = {"type": "Tuple", "subspaces": [BOX, BOX]}
    data = read_minari(raw(tmp_path / "x-v0", seen, spaces_of(a=CHOICE, b=CHOICE), [pairs]))
    assert any("entry k of the Dict of actions belongs to entry k of the Tuple" in n for n in data.card.notes)


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "toy-v0"
    left = temporary_beside(folder)
    (left / "data").mkdir(parents=True)
    (left / "data/main_data.hdf5").touch()
    gone = left.rename(str(left).replace(f"-{os.getpid()}-", "-999999999-"))
    mine = temporary_beside(folder)
    mine.mkdir()
    write_minari(sample(), folder)
    assert not gone.exists()
    assert mine.exists()  # of a process that lives


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    write_minari(sample(), tmp_path / "toy-v0")
    with h5py.File(tmp_path / "toy-v0/data/main_data.hdf5", "r+") as file:
        for k in range(3, 2000):  # each below what one array may declare without storing it
            file.create_group(f"episode_{k}").create_dataset("rewards", (1_000_000,), "f4", chunks=True)
    with pytest.raises(DataError, match="more than it stores"):
        read_minari(strip(tmp_path / "toy-v0"))


@damaging
@given(damage=DAMAGE)
def test_damaged_folders(tmp_path_factory: pytest.TempPathFactory, damage: Damage) -> None:
    base = tmp_path_factory.getbasetemp()
    if not (base / "minari-v0").exists():
        write_minari(sample(spec=DISCRETE), base / "minari-v0")
    path = write_damaged(base / "minari-damaged", contents(base / "minari-v0"), damage)
    outcome(lambda: read_minari(path))
    outcome(lambda: load_dataset(path))
