"""OMIGA's and MADT's SMAC episode files: order, ends, reward-to-go, skipped and hostile files, damage."""

from __future__ import annotations

import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marlzoo.data.convert import convert
from marlzoo.data.formats.smac_episodes import MAPS, read_smac_episodes
from marlzoo.data.load import load_dataset
from marlzoo.data.readers import find_reader
from marlzoo.envs._smac_maps import MAPS as GAMES_MAPS
from marlzoo.errors import DataError
from tests.format_files import DAMAGE, Damage, contents, damaging, equal, outcome, same, write_damaged

AGENTS, OBS, STATE, ACTIONS = 2, 3, 4, 5


def episode(steps: int, seed: int = 0, online: bool = False, plain: bool = True) -> list[Any]:
    """An episode as the authors store it: agents, steps, ``[g, o, a, r, d, ava]``."""
    rng = np.random.default_rng(seed)
    agents: list[Any] = [[] for _ in range(AGENTS)]
    for t in range(steps):
        reward = float(rng.standard_normal())
        for agent in agents:
            action = int(rng.integers(ACTIONS))
            action_mask = [int(k == action or rng.random() < 0.5) for k in range(ACTIONS)]
            state, obs = rng.standard_normal(STATE), rng.standard_normal(OBS)
            entry: list[Any] = [
                state,
                obs.tolist() if plain else obs,
                [action],
                [reward],
                t == steps - 1,
                action_mask,
            ]
            agent.append([*entry, [0.5]] if online else entry)
    return agents


def write(folder: Path, episodes: dict[str, Any], zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in episodes.items():
        torch.save(value, folder / name, _use_new_zipfile_serialization=zipped)
    return folder


@pytest.mark.parametrize("zipped", [True, False])
def test_reading(tmp_path: Path, zipped: bool) -> None:
    sources = {"b": episode(3, 1, online=True), "a.pt": episode(4, 2), "c": episode(2, 3, plain=False)}
    folder = write(tmp_path / "toy/good", sources, zipped)
    assert find_reader(folder).read is read_smac_episodes
    dataset = read_smac_episodes(folder)
    equal(dataset.lengths, [4, 3, 2])
    for name, start, end in zip(("a.pt", "b", "c"), dataset.starts, dataset.ends, strict=True):
        source = sources[name]
        for i in range(AGENTS):
            g, o, a, r = ([step[k] for step in source[i]] for k in range(4))
            equal(dataset.obs[start:end, i], np.array(o, np.float32))
            equal(dataset.state[start:end, STATE * i : STATE * (i + 1)], np.array(g, np.float32))
            equal(dataset.action[start:end, i], np.array(a)[:, 0])
            equal(dataset.reward[start:end], np.array(r, np.float32)[:, 0])
            equal(dataset.action_mask[start:end, i], np.array([step[5] for step in source[i]]))
        equal(dataset.obs[end], dataset.obs[end - 1])
    equal(np.flatnonzero(dataset.terminal), dataset.ends - 1)
    assert dataset.card.quality == "good"
    assert any("give the option horizon" in note for note in dataset.card.notes)
    limited = read_smac_episodes(folder, horizon=4)
    equal(np.flatnonzero(limited.truncated), [3])
    assert read_smac_episodes(folder, horizon=4, timeout_is_terminal=True).terminal.sum() == 3
    assert read_smac_episodes(folder / "b").episodes == 1


def test_reward_to_go(tmp_path: Path) -> None:
    source = episode(3)
    for agent in source:
        for step, reward in zip(agent, (1.0, 0.0, 2.0), strict=True):
            step[3] = [reward]
    dataset = read_smac_episodes(write(tmp_path / "toy", {"a": source}), reward_mode="rtg")
    equal(dataset.reward, [3, 2, 2, 0])
    with pytest.raises(DataError, match="reward_mode must be"):
        read_smac_episodes(tmp_path / "toy", reward_mode="return")  # type: ignore[arg-type]


def test_rewards_that_differ_stay_per_agent(tmp_path: Path) -> None:
    source = [*episode(3), *episode(3)[:1]]
    source[1][2][3] = [7.0]
    dataset = read_smac_episodes(write(tmp_path / "toy", {"a": source}))
    assert dataset.spec.reward_per_agent
    equal(np.argwhere(dataset.reward == 7.0), [[2, 1]])


def test_the_authors_maps_are_known_by_their_sizes(tmp_path: Path) -> None:
    source = [
        [[np.zeros(156), np.zeros(124), [1], [0.0], False, [1] * 12] for _ in range(70)] for _ in range(5)
    ]
    dataset = read_smac_episodes(write(tmp_path / "x", {"a": source}))
    assert dataset.card.task == "smac/5m_vs_6m"
    assert dataset.spec.horizon == 70
    assert dataset.truncated[69]
    assert dataset.spec.state_size == 780
    longer = read_smac_episodes(tmp_path / "x", horizon=71)
    assert longer.spec.horizon == 71
    assert not longer.truncated.any()


def test_the_limits_of_the_authors_maps_are_the_games() -> None:
    for name, limit in MAPS.values():
        assert limit == GAMES_MAPS[name].limit, name


def test_unequal_agents_are_skipped(tmp_path: Path) -> None:
    uneven = episode(3)
    uneven[0].pop()
    dataset = read_smac_episodes(write(tmp_path / "toy", {"a": uneven, "b": episode(2)}))
    assert dataset.episodes == 1
    assert any("1 files were skipped" in note for note in dataset.card.notes)
    with pytest.raises(DataError, match="no episode file that could be used"):
        read_smac_episodes(write(tmp_path / "other", {"a": uneven}))


def test_conversion_of_a_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "toy/poor", {"a": episode(3)})
    convert(folder, tmp_path / "a.hdf5")
    assert same(load_dataset(tmp_path / "a.hdf5"), read_smac_episodes(folder))


def change(**changes: Any) -> list[Any]:
    """An episode with entries of agent 1's second step replaced."""
    source = episode(3)
    for name, value in changes.items():
        source[1][1][("g", "o", "a", "r", "d", "ava").index(name)] = value
    return source


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ({"a": 1}, "does not hold a list of agents"),
        ([], "does not hold a list of agents"),
        ([1, 2], "an agent's entry is not a list of steps"),
        ([[], []], "has no step"),
        ([[[1, 2]], [[1, 2]]], "step 0 of agent 0 is not a list of 6 entries"),
        (change(o=[1.0, 2.0]), "o of agent 1 at step 1 has another size"),
        (change(o="abc"), "o of agent 1 at step 1 is not a list of numbers"),
        (change(o=[1.0, [2.0], 3.0]), "is not a list of numbers"),
        (change(o=[1.0, 10**400, 3.0]), "holds a number that is too large"),
        (change(o=[1.0, float("nan"), 3.0]), "obs holds NaN"),
        ([[[*step[:2], [1, 1], *step[3:]] for step in agent] for agent in episode(2)], "list of one number"),
        (
            [[[*step[:3], [1.0, 1.0], *step[4:]] for step in agent] for agent in episode(2)],
            "list of one number",
        ),
        (change(a=[0.5]), "a is 0.5 at .*, expected a whole number"),
        (change(a=[9]), "action 9 of agent 1 at step 1 of a is outside"),
        (change(ava=[0, 0, 0, 0, 2]), "ava is 2.0"),
        (change(ava=[0] * 5), "agent 1 has no legal action at step 1 of a"),
    ],
)
def test_faults_are_named(tmp_path: Path, value: Any, cause: str) -> None:
    with pytest.raises(DataError, match=rf"\A[^\n]*toy[^\n]*: [^\n]*{cause}"):
        read_smac_episodes(write(tmp_path / "toy", {"a": value}))


def test_files_of_other_sizes_and_missing_folders(tmp_path: Path) -> None:
    wider = [[[*step[:1], [*step[1], 0.0], *step[2:]] for step in agent] for agent in episode(2)]
    with pytest.raises(DataError, match=r"toy/b: its sizes .* differ from the first file's"):
        read_smac_episodes(write(tmp_path / "toy", {"a": episode(2), "b": wider}))
    with pytest.raises(DataError, match="no such folder"):
        read_smac_episodes(tmp_path / "nothing")


def test_a_stray_file_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "toy", {"a": episode(2)})
    (folder / "README.md").write_text("Read me")
    assert find_reader(folder).read is read_smac_episodes
    with pytest.raises(DataError, match=r"README\.md: is no episode file .*; move it out of the folder"):
        read_smac_episodes(folder)


class Command:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch executed",)


def test_hostile_files_are_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, source in (("a", Command()), ("b", change(o=Command())), ("c", change(g=[Command()]))):
        folder = write(tmp_path / name, {"x": source})
        with pytest.raises(
            DataError, match=r"names posix\.system, which is not admitted; nothing .* executed"
        ):
            read_smac_episodes(folder)
    assert not (tmp_path / "executed").exists()


def test_a_small_file_cannot_ask_for_much_memory_or_time(tmp_path: Path) -> None:
    step = [np.zeros(4), [0.0], [0], [0.0], False, [1]]
    agent = [step] * 3000
    tmp_path.joinpath("toy").mkdir()
    for source in ([agent] * 3000, [[[[], [], [0], [0.0], False, [1]]] * 3000] * 3000):
        with zipfile.ZipFile(tmp_path / "toy/a", "w") as archive:
            archive.writestr("a/data.pkl", pickle.dumps(source))
        tracemalloc.start()
        with pytest.raises(DataError, match="larger than the file"):
            read_smac_episodes(tmp_path / "toy")
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
        tracemalloc.stop()


@damaging
@given(damage=DAMAGE, zipped=st.booleans())
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, damage: Damage, zipped: bool) -> None:
    good = tmp_path_factory.getbasetemp() / f"smac-{zipped}"
    if not good.exists():
        write(good, {"a": episode(3, 1), "b": episode(2, 2, plain=False)}, zipped)
    path = write_damaged(good.with_name("smac-damaged"), contents(good), damage)
    outcome(lambda: read_smac_episodes(path))
