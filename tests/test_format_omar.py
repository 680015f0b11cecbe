"""OMAR's npy folders: episodes found again, states, prey, seeds, time limits, damage."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from marlzoo.data.formats._steps import Layout
from marlzoo.data.formats.omar import read_omar, sniff
from marlzoo.data.readers import find_reader
from marlzoo.errors import DataError
from tests.format_files import DAMAGE, Damage, contents, damaging, equal, outcome, write_damaged


def write(
    folder: Path,
    lengths: tuple[int, ...] = (25, 25, 7),
    sizes: tuple[int, ...] = (4, 4, 3),
    state: int = 0,
    done: tuple[int, ...] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Episodes of these lengths as the authors store them, with ``done`` on these rows."""
    rng, steps = np.random.default_rng(seed), sum(lengths)
    folder.mkdir(parents=True)
    kept: dict[str, Any] = {"obs": [], "next": [], "action": [], "reward": []}
    for i, size in enumerate(sizes):
        path = [rng.standard_normal((length + 1, size)) for length in lengths]
        kept["obs"].append(np.concatenate([p[:-1] for p in path]))
        kept["next"].append(np.concatenate([p[1:] for p in path]))
        kept["action"].append(rng.uniform(-1, 1, (steps, 2)))
        kept["reward"].append(rng.standard_normal(steps))
        np.save(folder / f"obs_{i}.npy", kept["obs"][i])
        np.save(folder / f"next_obs_{i}.npy", kept["next"][i])
        np.save(folder / f"acs_{i}.npy", kept["action"][i])
        np.save(folder / f"rews_{i}.npy", kept["reward"][i])
        np.save(folder / f"dones_{i}.npy", np.isin(np.arange(steps), done).astype(float))
        if state:
            states = [rng.standard_normal((length + 1, state)) for length in lengths]
            np.save(folder / f"states_{i}.npy", np.concatenate([s[:-1] for s in states]))
            np.save(folder / f"next_states_{i}.npy", np.concatenate([s[1:] for s in states]))
    return kept


def test_episodes_are_found_again(tmp_path: Path) -> None:
    kept = write(tmp_path / "simple_spread/medium/seed_0_data")
    dataset = read_omar(tmp_path / "simple_spread/medium/seed_0_data")
    equal(dataset.lengths, [25, 25, 7])
    equal(dataset.spec.obs_sizes, [4, 4, 3])
    equal(dataset.obs[dataset.sources][:, 1], kept["obs"][1].astype(np.float32))
    equal(dataset.obs[dataset.sources][:, 2, 3], np.zeros(57))
    equal(dataset.obs[dataset.ends, 0], kept["next"][0][[24, 49, 56]].astype(np.float32))
    equal(dataset.action[dataset.sources][:, 1], kept["action"][1].astype(np.float32))
    equal(dataset.reward[dataset.sources], np.stack(kept["reward"], 1).astype(np.float32))
    assert dataset.spec.reward_per_agent
    assert dataset.spec.horizon == 25
    equal(np.flatnonzero(dataset.truncated), dataset.ends[:2] - 1)
    assert not dataset.terminal.any()
    assert dataset.card.source == "omar"
    assert dataset.card.quality == "medium"
    assert "order of recording" in dataset.card.notes[0]


def test_terminal_before_the_limit_and_states(tmp_path: Path) -> None:
    folder = tmp_path / "HalfCheetah-v2/expert/seed_0_data"
    write(folder, (5, 1000, 3), (6, 6), state=17, done=(4, 1004))
    dataset = read_omar(folder)
    assert (dataset.spec.horizon, dataset.spec.state_size) == (1000, 17)
    equal(np.flatnonzero(dataset.terminal), [4])
    equal(np.flatnonzero(dataset.truncated), [dataset.ends[1] - 1])
    assert not read_omar(folder, timeout_is_terminal=True).truncated.any()
    equal(dataset.state[dataset.ends[0]], np.load(folder / "next_states_0.npy")[4].astype(np.float32))


def test_the_arrays_outweigh_what_the_path_suggests(tmp_path: Path) -> None:
    write(tmp_path / "seed_0_data", (60, 50), (2, 2))
    data = read_omar(tmp_path / "seed_0_data")
    equal(data.lengths, [60, 50])
    assert (data.spec.horizon, data.truncated.sum()) == (60, 1)
    equal(read_omar(tmp_path / "seed_0_data", horizon=100).lengths, [60, 50])
    equal(read_omar(tmp_path / "seed_0_data", horizon=25).lengths, [25, 25, 10, 25, 25])
    folder = tmp_path / "simple_spread/seed_0_data"
    write(folder, (60,), (2, 2))
    with pytest.raises(
        DataError, match=r"simple_spread ends after 25 steps, but here 60 rows .*option horizon"
    ):
        read_omar(folder)
    equal(read_omar(folder, horizon=60).lengths, [60])
    equal(read_omar(folder, horizon=25).lengths, [25, 25, 10])
    with pytest.raises(DataError, match="the option horizon is 0"):
        read_omar(folder, horizon=0)


def test_the_prey_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "simple_tag/random/seed_0_data"
    write(folder, sizes=(16, 16, 16, 14))
    dataset = read_omar(folder)
    assert dataset.spec.n_agents == 3
    assert any("predators" in note for note in dataset.card.notes)
    assert read_omar(folder, agents=4).spec.obs_sizes == (16, 16, 16, 14)
    with pytest.raises(DataError, match="files of 4 agents, not of 5"):
        read_omar(folder, agents=5)


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [((16, 16, 16), 3), ((16, 16, 14), 2), ((16, 14), 1), ((16, 16, 16, 16), 3), ((16,), 1)],
)
def test_the_prey_is_left_out_only_where_a_file_shows_it(
    tmp_path: Path, sizes: tuple[int, ...], kept: int
) -> None:
    folder = tmp_path / "simple_tag/medium/seed_0_data"
    write(folder, sizes=sizes)
    dataset = read_omar(folder)
    assert dataset.spec.n_agents == kept
    assert any("agents are taken for predators" in n for n in dataset.card.notes) == (sizes == (16, 16, 16))


def test_ends_that_only_one_thing_tells(tmp_path: Path) -> None:
    """A terminal step behind which observations go on, and a break in one entry of one agent."""
    folder = tmp_path / "seed_0_data"
    write(folder, (9,), (2, 2), done=(3,))
    following = np.load(folder / "next_obs_1.npy")
    following[6, 1] += 1.0
    np.save(folder / "next_obs_1.npy", following)
    data = read_omar(folder)
    equal(data.lengths, [4, 3, 2])
    equal(np.flatnonzero(data.terminal), [])  # it took as long as the longest
    equal(np.flatnonzero(read_omar(folder, horizon=9).terminal), [3])


def test_all_seeds_or_one(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / f"simple_spread/expert/seed_{seed}_data", seed=seed)
    folder = tmp_path / "simple_spread/expert"
    assert find_reader(folder).read is read_omar
    assert read_omar(folder).episodes == 9
    equal(read_omar(folder, seed=1).obs, read_omar(folder / "seed_1_data").obs)
    equal(read_omar(folder).obs[60:120], read_omar(folder, seed=1).obs)
    with pytest.raises(DataError, match="has no seed 7; it has 0, 1, 2"):
        read_omar(folder, seed=7)


def test_faults_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "seed_0_data"
    write(folder)

    def refused(match: str) -> None:
        with pytest.raises(DataError, match=match):
            read_omar(folder)

    (folder / "acs_1.npy").unlink()
    refused(r"seed_0_data: acs_1\.npy is missing")
    np.save(folder / "acs_1.npy", np.zeros((9, 2)))
    refused("lengths differ: obs_0 has 57 rows, action of agent 1 has 9")
    np.save(folder / "acs_1.npy", np.array([{}]), allow_pickle=True)
    refused(r"acs_1\.npy is cut off, damaged or holds objects")
    np.save(folder / "acs_1.npy", np.full((57, 2), np.nan))
    refused("action holds NaN, first at row 0 of seed_0_data, entry")
    np.save(folder / "acs_1.npy", np.array(["a"]))
    refused("does not hold numbers")
    np.save(folder / "acs_1.npy", np.zeros(57))
    refused(r"has shape \(57,\), expected 2 dimensions")
    (folder / "acs_1.npy").write_bytes(pickle.dumps(np.zeros((57, 2))))
    refused(r"acs_1\.npy is cut off, damaged or holds objects")
    np.save(folder / "acs_1.npy", np.zeros((57, 3)))
    refused("actions of agent 1 have another size")
    np.save(folder / "acs_1.npy", np.zeros((57, 2)))
    following = np.load(folder / "next_obs_0.npy")
    np.save(folder / "next_obs_0.npy", following[:, :3])
    refused(r"obs_0\.npy and next_obs_0\.npy differ in shape")
    np.save(folder / "next_obs_0.npy", following)
    np.save(folder / "dones_0.npy", np.full(57, 0.5))
    np.save(folder / "acs_1.npy", np.zeros((57, 2)))
    refused(r"dones_0 is 0\.5 at \[0\], expected 0 or 1")
    np.save(folder / "dones_0.npy", np.zeros(57))
    action = np.zeros((57, 2))
    action[26] = np.nan  # in the second episode
    np.save(folder / "acs_1.npy", action)
    refused("action holds NaN, first at row 26 of seed_0_data, entry")
    np.save(folder / "acs_1.npy", np.zeros((57, 2)))
    following = np.load(folder / "next_obs_0.npy")
    following[49, 1] = np.inf  # after the second episode's last step
    np.save(folder / "next_obs_0.npy", following)
    refused(r"obs holds infinity, first at row 49 \(the observation after it\) of seed_0_data")
    (tmp_path / "above/seed_1_data").mkdir(parents=True)
    write(tmp_path / "above/seed_0_data")
    with pytest.raises(DataError, match="seed_1_data holds no obs_<i>"):
        read_omar(tmp_path / "above")
    (tmp_path / "above/seed_1_data").rmdir()
    write(tmp_path / "above/seed_1_data", sizes=(4, 4, 4))
    with pytest.raises(DataError, match="seed_1_data and seed_0_data differ in their sizes"):
        read_omar(tmp_path / "above")
    assert not sniff(tmp_path / "nothing")
    with pytest.raises(DataError, match="is not a folder"):
        read_omar(tmp_path / "nothing")


def test_no_steps_are_no_episodes() -> None:
    with pytest.raises(DataError, match="the dataset is empty"):
        Layout.from_ends(np.zeros(0, np.bool_))


def test_absurd_sizes_take_no_memory(tmp_path: Path) -> None:
    write(tmp_path / "seed_0_data")
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 4)}".ljust(117) + "\n"
    (tmp_path / "seed_0_data/obs_0.npy").write_bytes(
        b"\x93NUMPY\x01\x00\x76\x00" + header.encode() + bytes(99)
    )
    with pytest.raises(DataError, match=r"obs_0\.npy is cut off"):
        read_omar(tmp_path / "seed_0_data")


@damaging
@given(damage=DAMAGE)
def test_damaged_folders(tmp_path_factory: pytest.TempPathFactory, damage: Damage) -> None:
    base = tmp_path_factory.getbasetemp()
    if not (base / "omar").exists():
        write(base / "omar", (5, 4), (2, 2), state=3)
    path = write_damaged(base / "omar-damaged", contents(base / "omar"), damage)
    outcome(lambda: read_omar(path))
