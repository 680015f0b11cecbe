"""Minari: what Minari writes is read, what is written here Minari opens; teams, spaces, damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from hypothesis import given, settings

from marlzoo.data.formats.minari import read_minari, write_minari
from marlzoo.data.load import convert, find_reader, load_dataset
from marlzoo.errors import DataError, OutputError
from marlzoo.spec import Spec
from tests.data_samples import DISCRETE, SPEC, sample
from tests.format_files import DAMAGE, Damage, contents, equal, outcome, same, write_damaged

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
        write_minari(sample(), folder)
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

    refused("stored as arrow; save it as hdf5", values(data_format="arrow"))
    refused("has no action_space", values(action_space=None))
    refused("action_space in metadata.json is damaged", values(action_space="{"))
    refused("action_space in metadata.json is damaged", values(action_space="[" * 10_000))
    refused("a space of type Text", values(action_space='{"type": "Text"}'))
    one = json.dumps({"type": "Dict", "subspaces": {"agent_0": {"type": "Discrete", "n": 2}}})
    refused("observations of 2 agents and actions of 1", values(action_space=one))
    refused("the group 'actions' is missing in /episode_1", edit("episode_1/actions", None))
    refused("'agent_1' is missing", edit("episode_1/actions/agent_1", None))
    refused(r"episode_1: agent_1 has shape \(2,\)", edit("episode_1/actions/agent_1", np.zeros(2)))
    refused("terminations of episode_0 is 2", edit("episode_0/terminations", np.full(2, 2)))
    refused("terminal is set at row 0", edit("episode_0/terminations", np.ones(2)))
    refused("episode_0 has no step", edit("episode_0/rewards", np.zeros(0)))
    refused("its content is not what its card says", edit("episode_0/rewards", np.zeros(2)))


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    write_minari(sample(), tmp_path / "toy-v0")
    with h5py.File(tmp_path / "toy-v0/data/main_data.hdf5", "r+") as file:
        for k in range(3, 2000):  # each below what one array may declare without storing it
            file.create_group(f"episode_{k}").create_dataset("rewards", (1_000_000,), "f4", chunks=True)
    with pytest.raises(DataError, match="more than it stores"):
        read_minari(strip(tmp_path / "toy-v0"))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(damage=DAMAGE)
def test_damaged_folders(tmp_path_factory: pytest.TempPathFactory, damage: Damage) -> None:
    base = tmp_path_factory.getbasetemp()
    if not (base / "minari-v0").exists():
        write_minari(sample(spec=DISCRETE), base / "minari-v0")
    path = write_damaged(base / "minari-damaged", contents(base / "minari-v0"), damage)
    outcome(lambda: read_minari(path))
    outcome(lambda: load_dataset(path))
