"""MOMA-PPO's teams: columns and actuators, scores, the Reacher's geometry, recorded data."""

from __future__ import annotations

import csv
import subprocess
import sys
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from marlzoo.benchmarks.references import normalized_score

from marlzoo.data.card import Card
from marlzoo.data.check import check
from marlzoo.data.dataset import Dataset
from marlzoo.envs import moma
from marlzoo.envs._moma_teams import robot_team, team_names
from marlzoo.errors import ConfigError, MismatchError, SpecError, UnknownNameError


def actions(env: Any, seed: int = 0) -> Any:
    shape = (env.num_envs, env.spec.n_agents, env.spec.action_size)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_listing_starts_no_simulator() -> None:
    code = (
        "import sys; from marlzoo.envs import moma as m; [m.spec(t) for t in m.TASKS];"
        "print([p for p in ('mujoco', 'gymnasium', 'torch', 'h5py') if p in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_sizes() -> None:
    sizes = {name: (moma.spec(name).obs_sizes, moma.spec(name).action_sizes) for name in moma.TASKS}
    assert sizes["reacher-2x1_full"] == ((11, 11), (1, 1))
    assert sizes["reacher-2x1_0"] == ((8, 8), (1, 1))
    assert sizes["reacher-2x1notip_0"] == ((5, 5), (1, 1))
    assert sizes["reacher-2x1first_0"] == ((8, 6), (1, 1))
    assert sizes["reacher-2x1second_0"] == ((6, 8), (1, 1))
    assert sizes["ant-4x2_0"] == ((4,) * 4, (2,) * 4)
    assert sizes["ant-4x2_0t"] == ((15,) * 4, (2,) * 4)
    assert sizes["ant-t4x2_0t"] == ((15, 4, 4, 4), (2,) * 4)
    assert sizes["ant-2x4d_0tnv"] == ((16,) * 2, (4,) * 2)
    assert sizes["halfcheetah-6x1_0"] == ((2,) * 6, (1,) * 6)
    assert sizes["hopper-3x1_full"] == ((11,) * 3, (1,) * 3)
    assert sizes["walker2d-2x3_0"] == ((6, 6), (3, 3))
    assert {moma.spec(name).horizon for name in moma.TASKS} == {50, 1000}
    assert moma.spec("reacher-2x1_0").horizon == 50
    assert moma.spec("ant-2x4_full").state_size == 27


# Columns of the Reacher that each agent sees, in order.
REACHER = {
    "2x1_0": ((0, 2, 6, 4, 5, 8, 9, 10), (1, 3, 7, 4, 5, 8, 9, 10)),
    "2x1notip_0": ((0, 2, 6, 4, 5), (1, 3, 7, 4, 5)),
    "2x1first_0": ((0, 2, 6, 1, 3, 7, 4, 5), (0, 2, 6, 1, 3, 7)),
    "2x1second_0": ((0, 2, 6, 1, 3, 7), (0, 2, 6, 1, 3, 7, 4, 5)),
    "2x1_full": (tuple(range(11)), tuple(range(11))),
}


@pytest.mark.parametrize("team", REACHER)
def test_what_the_reacher_shows(team: str) -> None:
    env = moma.make(f"reacher-{team}", 3)
    env.reset()
    seen = env.step(actions(env))
    angle, velocity = env._sim.fields()["qpos"][:, :2], env._sim.fields()["qvel"][:, :2]
    state = seen.state
    np.testing.assert_allclose(state[:, :4], np.hstack([np.cos(angle), np.sin(angle)]), atol=1e-6)
    np.testing.assert_allclose(state[:, 6:8], velocity, rtol=1e-6)
    for agent, columns in enumerate(REACHER[team]):
        np.testing.assert_array_equal(seen.obs[:, agent, : len(columns)], state[:, list(columns)])
        assert not seen.obs[:, agent, len(columns) :].any()


def joint(robot: str, k: int) -> tuple[int, int]:
    """Columns of angle and velocity of the k-th joint."""
    angle, velocity = {"hopper": (2, 8), "halfcheetah": (2, 11), "walker2d": (2, 11), "ant": (5, 19)}[robot]
    return angle + k, velocity + k


TORSO = (0, 1, 2, 3, 4, 16, 17, 18)
# Joints of each agent, and what all see besides.
TEAMS: dict[str, tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]] = {
    "halfcheetah-2x3_0": (((0, 1, 2), (3, 4, 5)), ()),
    "walker2d-2x3_0": (((0, 1, 2), (3, 4, 5)), ()),
    "walker2d-6x1_0": (((0,), (1,), (2,), (3,), (4,), (5,)), ()),
    "hopper-3x1_0": (((0,), (1,), (2,)), ()),
    "ant-4x2_0t": (((0, 1), (2, 3), (4, 5), (6, 7)), (*TORSO, 13, 14, 15)),
    "ant-2x4_0tnv": (((0, 1, 2, 3), (4, 5, 6, 7)), TORSO),
    "ant-2x4d_0tv": (((0, 1, 6, 7), (4, 5, 2, 3)), (13, 14, 15)),
    "ant-4x2_0txv": (((0, 1), (2, 3), (4, 5), (6, 7)), (13,)),
    "ant-4x2_0tyv": (((0, 1), (2, 3), (4, 5), (6, 7)), (14,)),
    "ant-2x4_0txyv": (((0, 1, 2, 3), (4, 5, 6, 7)), (13, 14)),
}


@pytest.mark.parametrize("name", TEAMS)
def test_columns_and_actuators_of_each_agent(name: str) -> None:
    robot, team = name.split("-")
    joints, besides = TEAMS[name]
    found = robot_team(robot, team)
    assert found.moves == joints  # actuators stand in the order of the observed joints
    assert found.sees == tuple(
        (*(column for k in own for column in joint(robot, k)), *besides) for own in joints
    )


def test_one_agent_may_have_the_whole_robot() -> None:
    alone = robot_team("ant", "sa_full")
    assert (alone.sees, alone.moves) == ((tuple(range(27)),), (tuple(range(8)),))
    found = robot_team("ant", "t4x2_0")
    assert found.moves == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert [columns[0] for columns in found.sees] == [5, 7, 9, 11]
    assert team_names("hopper") == ["sa_full", "3x1_full", "3x1_0"]


def test_an_environment_names_its_robot_team_and_flavor() -> None:
    metadata = moma.make("ant-2x4_0t", 1).metadata
    assert {name: metadata[name] for name in ("robot", "team", "flavor")} == {
        "robot": "Ant",
        "team": "2x4_0t",
        "flavor": "moma",
    }


def test_agents_drive_their_joints_and_are_clipped() -> None:
    env = moma.make("reacher-2x1first_0", 1)
    env.reset()
    env.step(np.array([[[0.25], [7.0]]], np.float32))
    assert env._sim._control[0].tolist() == [0.25, 1.0]
    before = float(np.linalg.norm(env._state[0, 8:]))
    step = env.step(np.array([[[-3.0], [0.0]]], np.float32))
    assert step.reward[0] == pytest.approx(-before - 1.0, abs=1e-6)  # paid for 1, not for 9


def test_the_ants_legs_are_crossed_as_in_the_release() -> None:
    env = moma.make("ant-2x4d_0", 1)
    env.reset()
    action = actions(env)
    env.step(action)
    control = env._sim._control[0]
    np.testing.assert_allclose(control[[0, 1, 6, 7]], action[0, 0])
    np.testing.assert_allclose(control[[4, 5, 2, 3]], action[0, 1])
    state = env._state[0]
    np.testing.assert_array_equal(env._obs[0, 0], state[[5, 19, 6, 20, 11, 25, 12, 26]])
    np.testing.assert_allclose(state[5:13], env._sim.fields()["qpos"][0, 7:], rtol=1e-6)
    np.testing.assert_allclose(state[19:], env._sim.fields()["qvel"][0, 6:], rtol=1e-6)


def test_the_torso_is_felt_by_the_first_agent_alone() -> None:
    env = moma.make("ant-t4x2_0tv", 2)
    env.reset()
    seen = env.step(actions(env))
    np.testing.assert_array_equal(seen.obs[:, 0, 4:], seen.state[:, 13:16])
    assert not seen.obs[:, 1:, 4:].any()


# Scores ------------------------------------------------------------------------------------------------------


def test_scores() -> None:
    assert moma.score("reacher-2x1first_0", -11.144625) == 0
    assert moma.score("reacher-2x1first_0", -4.2370844) == 1
    assert moma.score("hopper-3x1_0", 3234.3) == 1
    assert moma.score("ant-4x2_0t", (3879.7 - 325.6) / 2) == pytest.approx(0.5)
    with pytest.raises(UnknownNameError):
        moma.score("reacher", 0.0)


def test_tables_use_the_same_scores() -> None:
    for name in moma.TASKS:
        assert normalized_score(f"moma/{name}", -7.5) == pytest.approx(100 * moma.score(name, -7.5)), name
    text = files("marlzoo.benchmarks").joinpath("reference", "returns.csv").read_text()
    rows = [row for row in csv.DictReader(text.splitlines()) if row["task"].startswith("moma/")]
    assert len(rows) == len(moma.TASKS)


# Recorded data -----------------------------------------------------------------------------------------------


def recording(name: str) -> Dataset:
    """Twenty episodes of ten steps under random actions."""
    env, rng = moma.make(name, 20, horizon=10), np.random.default_rng(0)
    first = env.reset()
    rows: dict[str, list[Any]] = {"obs": [first.obs.copy()], "state": [first.state.copy()]}
    rows |= {"action": [], "reward": [], "terminal": [], "truncated": []}
    for _ in range(10):
        rows["action"].append(rng.uniform(-1, 1, actions(env).shape).astype(np.float32))
        step = env.step(rows["action"][-1])
        for key in ("obs", "state", "reward", "terminal", "truncated"):
            rows[key].append(getattr(step, key).copy())
    for key in ("action", "reward", "terminal", "truncated"):
        rows[key].append(np.zeros_like(rows[key][0]))
    flat = {k: np.stack(v, 1).reshape(-1, *v[0].shape[1:]) for k, v in rows.items()}
    card = Card(task=env.task, options={"team": env.metadata["team"]})
    return Dataset.create(env.spec, **flat, starts=np.arange(0, 220, 11), card=card)


@pytest.mark.parametrize("name", ["reacher-2x1_0", "reacher-2x1first_0", "hopper-3x1_full", "ant-2x4_full"])
def test_recorded_transitions_are_reproduced(name: str) -> None:
    env = moma.make(name, 1, horizon=10)
    assert env.replayable
    report = check(recording(name), env)
    assert report.agrees, report.summary()
    assert report.compared > 150
    assert report.observation is not None
    assert report.observation.median < 1e-4


@pytest.mark.parametrize("name", ["ant-4x2_0", "halfcheetah-2x3_0", "walker2d-6x1_0"])
def test_teams_that_see_too_little_are_replayed_from_their_states(name: str) -> None:
    env, data = moma.make(name, 1, horizon=10), recording(name)
    assert not env.replayable
    with pytest.raises(SpecError, match="do not determine"):
        env.replay(data.obs[:1], data.action[:1])
    report = check(data, env)
    assert report.agrees, report.summary()
    assert report.compared > 50
    assert report.observation is not None
    assert report.observation.median < 1e-4
    other = Dataset.create(
        data.spec,
        obs=data.obs,
        state=data.state,
        action=-data.action,
        reward=data.reward,
        terminal=data.terminal,
        truncated=data.truncated,
        starts=data.starts,
        card=data.card,
    )
    assert "Replayed transitions end elsewhere" in check(other, env).failures[0]
    with pytest.raises(SpecError, match=r"replay needs states \[B, "):
        env.replay_states(data.state[:1, 1:], data.action[:1])


def test_agents_that_see_different_things_are_noticed() -> None:
    env = moma.make("reacher-2x1_0", 2)
    obs = env.reset().obs.copy()
    obs[1, 1, 3] += 0.05  # the target's x
    obs = np.concatenate([obs, obs[1:]])
    with pytest.raises(MismatchError, match="in row 1, agent 1 sees another value than others in column 4"):
        env.replay(obs, np.zeros((3, 2, 1), np.float32))


def test_bad_names_and_options() -> None:
    with pytest.raises(UnknownNameError, match="reacher-2x1first_0"):
        moma.make("reacher-2x1frst_0", 1)
    with pytest.raises(UnknownNameError, match="horizon"):
        moma.spec("reacher-2x1_0", horizn=1)
    for option in ("horizon", "threads"):
        with pytest.raises(ConfigError, match=option):
            moma.make("reacher-2x1_0", 1, **{option: 0})
    with pytest.raises(ConfigError, match="num_envs"):
        moma.make("reacher-2x1_0", 0)
