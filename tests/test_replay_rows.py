"""Recorded rows stepped again: each as it would be alone, whatever its place among the simulator's copies."""

from __future__ import annotations

import numpy as np
import pytest

from marlzoo.envs._mujoco_robots import ROBOTS, Array
from marlzoo.envs._mujoco_sim import RobotSim
from marlzoo.envs._replay import replay_observations, state_from_observation

FIELDS = ("observation", "velocity", "reward", "terminal", "valid")


def recorded(name: str, rows: int) -> tuple[Array, Array]:
    """Observations on the way from one state, and what is done there."""
    robot = ROBOTS[name]
    sim = RobotSim(robot, 1, threads=1)
    rng = np.random.default_rng(0)
    control = rng.uniform(-1.0, 1.0, (rows, sim.model.nu))
    first = np.array([0])
    sim.set_state(first, sim.init_qpos[None], rng.uniform(-0.1, 0.1, (1, robot.nv)))
    seen = []
    for row in range(rows):
        seen.append(sim.observe(first)[0])
        sim.step(control[row : row + 1], first, np.zeros(1) if robot.reaches else None)
    return np.stack(seen), control


@pytest.mark.parametrize("name", ["hopper", "reacher"])
def test_rows_do_not_depend_on_their_chunk(name: str) -> None:
    raw, control = recorded(name, 5)
    few = replay_observations(RobotSim(ROBOTS[name], 2, threads=1), raw, control)
    for row in range(5):
        alone = replay_observations(
            RobotSim(ROBOTS[name], 1, threads=1), raw[row : row + 1], control[row : row + 1]
        )
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(few, field)[row], getattr(alone, field)[0], err_msg=field)
    assert len(np.unique(few.reward)) == 5
    assert few.valid.all()


def test_the_reachers_distance_is_that_of_the_row() -> None:
    raw, control = recorded("reacher", 2)
    moved = raw.copy()
    moved[:, -3:] += 1.0
    found = [
        replay_observations(RobotSim(ROBOTS["reacher"], 2, threads=1), x, control).reward
        for x in (raw, moved)
    ]
    lengths = [np.linalg.norm(x[:, -3:], axis=1) for x in (raw, moved)]
    np.testing.assert_allclose(found[0] - found[1], lengths[1] - lengths[0], rtol=1e-9)


def test_a_row_that_is_no_number_has_no_replay_and_spoils_no_other() -> None:
    raw, control = recorded("hopper", 3)
    broken = raw.copy()
    broken[1, 2] = np.nan
    qpos, qvel, valid = state_from_observation(ROBOTS["hopper"], broken)
    assert valid.tolist() == [True, False, True]
    assert np.isfinite(qpos).all()
    assert np.isfinite(qvel).all()
    whole = replay_observations(RobotSim(ROBOTS["hopper"], 2, threads=1), raw, control)
    found = replay_observations(RobotSim(ROBOTS["hopper"], 2, threads=1), broken, control)
    np.testing.assert_array_equal(found.observation[[0, 2]], whole.observation[[0, 2]])


@pytest.mark.parametrize(("length", "valid"), [(1.005, True), (1.02, False), (0.98, False), (0.0, False)])
def test_a_quaternion_has_length_one(length: float, valid: bool) -> None:
    robot = ROBOTS["ant"]
    raw = np.zeros((1, robot.obs_size))
    raw[0, 1] = length  # the first two of nq entries are hidden, then height and quaternion
    qpos, _, found = state_from_observation(robot, raw)
    assert found.tolist() == [valid]
    assert qpos[0, 3:7].tolist() == [length if valid else 1.0, 0.0, 0.0, 0.0]


def test_a_state_that_the_simulator_cannot_step_is_not_valid() -> None:
    raw, control = recorded("hopper", 3)
    raw[1, 5:] = 9.9  # all joints at their fastest, folded into each other
    raw[1, :5] = 1e8
    found = replay_observations(RobotSim(ROBOTS["hopper"], 3, threads=1), raw, control)
    assert found.valid.tolist() == [True, False, True]
