"""D4RL files as MOMA-PPO's teams: who sees and moves what, ends, options, pickles, damage."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marlzoo.data import hdf5
from marlzoo.data.convert import convert
from marlzoo.data.formats.d4rl import read_d4rl, sniff
from marlzoo.data.load import load_dataset, typed_options
from marlzoo.data.readers import find_reader
from marlzoo.envs._moma_teams import robot_team, team_names
from marlzoo.errors import ConfigError, DataError, UnknownNameError
from tests.data_samples import write_h5
from tests.format_files import DAMAGE, Damage, contents, damaging, equal, outcome, write_damaged

SIZES = {"ant": (111, 8), "halfcheetah": (17, 6), "hopper": (11, 3), "walker2d": (17, 6), "reacher": (11, 2)}


def arrays(robot: str, lengths: tuple[int, ...], ends: str, following: bool = True) -> dict[str, Any]:
    """Episodes of these lengths; ``ends`` has a letter for each: terminal, out of time (limit), or cut."""
    rng, (obs, actions), steps = np.random.default_rng(0), SIZES[robot], sum(lengths)
    paths = [rng.standard_normal((length + 1, obs)).astype(np.float32) for length in lengths]
    lasts = np.cumsum(lengths) - 1
    found = {
        "observations": np.concatenate([path[:-1] for path in paths]),
        "actions": rng.uniform(-1, 1, (steps, actions)).astype(np.float32),
        "rewards": rng.standard_normal(steps).astype(np.float32),
        "terminals": np.isin(np.arange(steps), [k for k, e in zip(lasts, ends, strict=True) if e == "t"]),
        "timeouts": np.isin(np.arange(steps), [k for k, e in zip(lasts, ends, strict=True) if e == "l"]),
    }
    return found | ({"next_observations": np.concatenate([p[1:] for p in paths])} if following else {})


@pytest.mark.parametrize("following", [True, False])
def test_errors_name_the_files_own_row(tmp_path: Path, following: bool) -> None:
    """Behind other episodes, and behind steps that are left out."""
    found = arrays("hopper", (3, 4, 5), "clt", following)
    found["rewards"][9] = np.nan
    with pytest.raises(DataError, match=r"reward holds NaN, first at row 9;"):
        read_d4rl(write_h5(tmp_path / "hopper_medium-v2.hdf5", found), team="3x1_0")


def test_the_teams_of_the_specification() -> None:
    ant = robot_team("ant", "4x2_0t")
    assert ant.sees[0] == (5, 19, 6, 20, 0, 1, 2, 3, 4, 16, 17, 18, 13, 14, 15)
    assert ant.moves == ((0, 1), (2, 3), (4, 5), (6, 7))  # of other legs than are seen, as in the release
    assert robot_team("ant", "t4x2_0tv").sees[:2] == ((5, 19, 6, 20, 13, 14, 15), (7, 21, 8, 22))
    assert robot_team("ant", "2x4d_0").moves == ((0, 1, 6, 7), (4, 5, 2, 3))
    assert robot_team("halfcheetah", "2x3_0").sees[1] == (5, 14, 6, 15, 7, 16)
    assert robot_team("reacher", "2x1first_0").sees == ((0, 2, 6, 1, 3, 7, 4, 5), (0, 2, 6, 1, 3, 7))
    for robot, (_, actuators) in SIZES.items():
        for name in team_names(robot):
            moved = [k for own in robot_team(robot, name).moves for k in own]
            assert sorted(moved) == list(range(actuators)), (robot, name)
    with pytest.raises(UnknownNameError, match="team of the halfcheetah '2x3_0t'"):
        robot_team("halfcheetah", "2x3_0t")


def test_episodes_ends_and_slices(tmp_path: Path) -> None:
    found = arrays("ant", (3, 4, 2, 5), "tlcc")
    path = write_h5(tmp_path / "ant_medium_replay-v2.hdf5", found)
    assert find_reader(path).read is read_d4rl
    dataset = read_d4rl(path, team="t4x2_0txv")
    equal(dataset.lengths, [3, 4, 2, 5])
    equal(np.flatnonzero(dataset.terminal), [2])
    equal(np.flatnonzero(dataset.truncated), [dataset.ends[1] - 1])
    assert dataset.spec.obs_sizes == (5, 4, 4, 4)
    equal(dataset.obs[dataset.sources][:, 0], found["observations"][:, [5, 19, 6, 20, 13]])
    equal(dataset.obs[dataset.sources][:, 3, :4], found["observations"][:, [11, 25, 12, 26]])
    equal(dataset.state[dataset.ends], found["next_observations"][[2, 6, 8, 13], :27])
    equal(dataset.action[dataset.sources][:, 3], found["actions"][:, [6, 7]])
    equal(dataset.reward[dataset.sources], found["rewards"])
    assert dataset.card.quality == "medium-replay"
    assert dataset.card.source == "d4rl"


def test_steps_that_end_by_a_time_out_can_be_left_out(tmp_path: Path) -> None:
    found = arrays("hopper", (3, 1, 4, 5), "tlll")
    path = write_h5(tmp_path / "hopper.hdf5", found)
    dataset = read_d4rl(path, team="3x1_full", drop_timeouts=True)
    # the helper drops steps 3, 7 and 12; the episode of one step vanishes
    kept = [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    equal(dataset.state[dataset.sources], found["observations"][kept])
    equal(dataset.state[dataset.sources + 1], found["next_observations"][kept])
    assert not dataset.truncated.any()
    equal(np.flatnonzero(dataset.terminal), [2])


def test_files_without_next_observations(tmp_path: Path) -> None:
    found = arrays("hopper", (3, 4, 5), "tlc", following=False)
    dataset = read_d4rl(write_h5(tmp_path / "hopper.hdf5", found), team="sa_full")
    equal(dataset.lengths, [3, 3, 4])  # what followed steps 6 and 11 is not known
    equal(dataset.state[dataset.ends], found["observations"][[2, 6, 11]])
    equal(np.flatnonzero(dataset.terminal), [2])
    assert not dataset.truncated.any()


def test_the_horizon_tells_time_limits(tmp_path: Path) -> None:
    found = arrays("hopper", (3, 4), "cc")
    del found["timeouts"]
    path = write_h5(tmp_path / "hopper.hdf5", found)
    dataset = read_d4rl(path, team="sa_full", horizon=4)
    equal(np.flatnonzero(dataset.truncated), [dataset.ends[1] - 1])
    assert read_d4rl(path, team="sa_full", horizon=4, timeout_is_terminal=True).terminal.sum() == 1


def test_flags_that_meet(tmp_path: Path) -> None:
    """A terminal step at the limit, one that is also out of time, and what a file of another kind is."""
    found = arrays("hopper", (4, 4, 3), "ttl")
    found["timeouts"][7] = True
    dataset = read_d4rl(write_h5(tmp_path / "hopper.hdf5", found), team="sa_full", horizon=4)
    equal(np.flatnonzero(dataset.terminal), [3, 8])
    equal(np.flatnonzero(dataset.truncated), [dataset.ends[2] - 1])
    assert dataset.card.task == ""
    assert read_d4rl(tmp_path / "hopper.hdf5", team="3x1_0").card.task == "moma/hopper-3x1_0"
    assert not sniff(write_h5(tmp_path / "other.hdf5", {"observations": np.zeros((3, 2))}))


@pytest.mark.parametrize("following", [True, False])
def test_pieces_of_any_size_give_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, following: bool
) -> None:
    path = write_h5(tmp_path / "hopper.hdf5", arrays("hopper", (3, 4, 2, 5, 6), "tlctc", following))
    whole = read_d4rl(path, team="3x1_0")
    monkeypatch.setattr(hdf5, "CHUNK_BYTES", 1)
    for size in (1, 100):
        monkeypatch.setattr(hdf5, "_STREAM_BYTES", size)
        in_pieces = read_d4rl(path, team="3x1_0")
        assert in_pieces.content_hash == whole.content_hash
        equal(in_pieces.lengths, whole.lengths)


def test_readings_of_the_paper(tmp_path: Path) -> None:
    found = arrays("hopper", (3, 4), "tl")
    found["actions"][0] = 1
    path = write_h5(tmp_path / "hopper.hdf5", found)
    plain = read_d4rl(path, team="3x1_0")
    clipped = read_d4rl(path, team="3x1_0", paper_clip=True)
    assert plain.action.max() == 1
    assert clipped.action.max() == np.float32(1 - 1e-5)
    scaled = read_d4rl(path, team="3x1_0", reward_mode="normalized")
    assert np.ptp(scaled.returns) == pytest.approx(1000)
    equal(scaled.reward == 0, plain.reward == 0)


@pytest.mark.parametrize("name", ["dataset.pkl", "mix_expert.pt"])
def test_reacher_pickles(tmp_path: Path, name: str) -> None:
    found = arrays("reacher", (40, 50), "lc")  # the mask tells the first limit, the horizon the second
    found["time_out_masks"] = found.pop("timeouts")
    path = tmp_path / name
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps(found))
    else:
        torch.save({k: torch.from_numpy(v) for k, v in found.items()}, path)
    dataset = load_dataset(path, robot="reacher", team="2x1first_0")
    equal(dataset.lengths, [40, 50])
    assert dataset.truncated.sum() == 2
    assert dataset.spec.obs_sizes == (8, 6)
    path.write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(DataError, match=r"names os\.system"):
        read_d4rl(path, robot="reacher", team="2x1_0")


def test_what_the_file_does_not_tell_is_asked_for(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "data.hdf5", arrays("hopper", (3,), "t"))
    with pytest.raises(DataError, match="give it with the option robot"):
        read_d4rl(path)
    with pytest.raises(DataError, match="say how agents share it with the option team, one of sa_full, 3x1"):
        read_d4rl(path, robot="hopper")
    with pytest.raises(DataError, match="have 11 and 3 entries, the robot has 111 and 8"):
        read_d4rl(path, robot="ant", team="sa_full")
    options = typed_options(path, ["robot=hopper", "team=3x1_0", "horizon=9", "drop_timeouts=true"])
    assert options == {"robot": "hopper", "team": "3x1_0", "horizon": 9, "drop_timeouts": True}
    convert(path, tmp_path / "team.hdf5", **options)
    assert load_dataset(tmp_path / "team.hdf5").spec.n_agents == 3
    for text, match in (
        ("horizon=x", "whole number"),
        ("drop_timeouts=1", "true or false"),
        ("team", "NAME="),
    ):
        with pytest.raises(ConfigError, match=match):
            typed_options(path, [text])
    with pytest.raises(UnknownNameError, match="Did you mean team"):
        typed_options(path, ["teams=a"])


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"rewards": None}, "missing key rewards"),
        ({"rewards": np.zeros(5)}, "lengths differ: rewards has"),
        ({"rewards": np.zeros((7, 2))}, r"rewards has shape \(7, 2\)"),
        ({"terminals": np.full(7, 0.5)}, r"terminals is 0\.5 at \[0\]"),
        ({"actions": np.zeros(7)}, "actions has shape"),
        ({"actions": np.zeros((7, 4))}, "have 11 and 4 entries, the robot has 11 and 3"),
        ({"observations": np.zeros((0, 11))}, r"observations has shape \(0, 11\)"),
        ({"next_observations": np.zeros((7, 3))}, "next_observations has another shape"),
        ({"observations": np.full((7, 11), np.nan)}, "holds NaN"),
    ],
)
def test_faults_are_named(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    found = arrays("hopper", (3, 4), "tl") | change
    path = write_h5(tmp_path / "hopper.hdf5", {k: v for k, v in found.items() if v is not None})
    with pytest.raises(DataError, match=rf"\A[^\n]*hopper\.hdf5: [^\n]*{cause}"):
        read_d4rl(path, team="3x1_0")


@damaging
@given(damage=DAMAGE, kind=st.sampled_from(["plain", "gzip", "pickle"]))
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, damage: Damage, kind: str) -> None:
    base = tmp_path_factory.getbasetemp()
    good = base / (f"d4rl-{kind}.hdf5" if kind != "pickle" else "dataset.pkl")
    if not good.exists():
        found = arrays("hopper", (3, 4, 2), "tlc")
        if kind == "pickle":
            good.write_bytes(pickle.dumps(found))
        else:
            write_h5(good, found, **{"compression": "gzip"} if kind == "gzip" else {})
    folder = base / "d4rl-damaged"
    path = write_damaged(folder, {good.name: good.read_bytes()}, damage) / good.name
    outcome(lambda: read_d4rl(path, robot="hopper", team="3x1_0"))
    assert contents(folder)
