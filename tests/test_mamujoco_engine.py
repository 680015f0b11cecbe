"""The -v2 robots against recordings of the genuine tasks and numbers known in closed form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marlzoo.envs._mujoco_legacy import legacy_model, require_mujoco
from marlzoo.envs._mujoco_robots import ROBOTS, Array, start_state
from marlzoo.envs._mujoco_sim import RobotSim
from marlzoo.envs._mujoco_v5 import ROBOTS_V5
from marlzoo.errors import MarlzooError

GOLDEN = Path(__file__).parent / "golden" / "mujoco_v2"
# Total masses in kg of the models that the old engine compiled.
MASSES = {
    "halfcheetah": 14.0,
    "hopper": 15.264999,
    "walker2d": 22.698007,
    "ant": 0.878710,
    "humanoid": 39.645817,
    "reacher": 0.076357,
}
# Rewards of steps 1, 5, 10, returns of 10 and 20 steps, sum of the observation after step 10.
TABLE = {
    "halfcheetah": (-0.0534528435, 0.1638337493, -0.2660100035, -0.9456504434, -2.7736958918, 1.5775797593),
    "hopper": (1.0112591659, 1.0348939796, 0.9581527936, 10.1526468638, 13.7486438185, -1.4311732346),
    "ant": (0.5825261555, -0.4318816893, -0.3584842895, -0.7163079199, 9.9209330721, -3.4090164119),
    "walker2d": (0.9765137312, 0.5795363083, 0.4199660340, 6.1468156500, 7.7014528584, -12.6335515918),
    "humanoid": (4.9681944446, 4.9639341619, 4.9593391486, 49.6496437827, 99.5015426588, 61.5781560859),
    "reacher": (-0.3256790420, -0.5596566298, -0.4001210188, -4.5750289887, -9.8686266734, 22.6757594105),
    "swimmer": (-0.0006779101, -0.0901674714, 0.3206910336, 0.2990471775, 0.3766058515, 2.4099110322),
}


def golden_episode(key: str, num_envs: int = 2, threads: int = 1) -> tuple[Array, Array, Array]:
    """Rewards [20], observations [20, O], done [20] under the fixed actions, from the fixed start."""
    robot = ROBOTS[key]
    sim = RobotSim(robot, num_envs, threads)
    sim.set_state(np.arange(num_envs), sim.init_qpos, np.zeros(robot.nv))
    rewards, observations, done = [], [], []
    for t in range(20):
        control = robot.control * 0.5 * np.sin(0.3 * t + np.arange(robot.nu))
        step = sim.step(np.tile(control, (num_envs, 1)))
        rewards.append(step.reward[-1])
        observations.append(sim.observe()[-1])
        done.append(not step.alive[-1])
    return np.array(rewards), np.array(observations), np.array(done)


@pytest.mark.parametrize("key", ROBOTS)
def test_golden_episode(key: str) -> None:
    rewards, observations, done = golden_episode(key)
    tolerance = 1e-4 if key == "humanoid" else 1e-6
    found = (*rewards[[0, 4, 9]], rewards[:10].sum(), rewards.sum(), observations[9].sum())
    np.testing.assert_allclose(found, TABLE[key], rtol=0, atol=tolerance)
    with np.load(GOLDEN / f"gold_{ROBOTS[key].name}-v2.npz", allow_pickle=False) as gold:
        np.testing.assert_allclose(rewards, gold["R"], rtol=0, atol=tolerance)
        # The HalfCheetah's feet start above the ground and strike it: the error grows to 1.5e-6.
        np.testing.assert_allclose(observations, gold["O"], rtol=0, atol=3 * tolerance)
        np.testing.assert_array_equal(done, gold["D"])


@pytest.mark.parametrize("key", MASSES)
def test_masses_are_those_of_the_old_engine(key: str) -> None:
    robot = ROBOTS[key]
    model = legacy_model(robot.asset, robot.total_mass)
    assert model.body_mass.sum() == pytest.approx(MASSES[key], abs=1e-6)


@pytest.mark.parametrize("key", ["halfcheetah", "hopper"])
def test_model_equals_the_recorded_one(key: str) -> None:
    robot = ROBOTS[key]
    model = legacy_model(robot.asset, robot.total_mass)
    with np.load(GOLDEN / f"replay_{robot.name}-v2.npz", allow_pickle=False) as data:
        for name in ("body_mass", "body_inertia", "body_ipos"):
            np.testing.assert_allclose(getattr(model, name), data[f"M_{name}"], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(model.qpos0, data["M_init_qpos"], atol=1e-15)


def test_compiling_writes_no_log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    legacy_model("half_cheetah", 14.0)
    assert list(tmp_path.iterdir()) == []


def test_action_cost_is_not_clipped_but_the_humanoids_is() -> None:
    one = np.zeros(1)
    far = np.full((1, 6), 2.0)
    assert ROBOTS["halfcheetah"].reward(one, one, far)[0] == pytest.approx(-0.1 * 24)
    assert ROBOTS["humanoid"].reward(one, one, np.full((1, 17), 2.0))[0] == pytest.approx(5 - 0.1 * 17 * 0.16)


def test_reachers_reward_is_taken_before_the_step() -> None:
    robot = ROBOTS["reacher"]
    sim = RobotSim(robot, 1)
    # Both links along x: the fingertip lies at 0.21; target at (0.1, -0.1).
    sim.set_state(np.arange(1), np.array([[0.0, 0.0, 0.1, -0.1]]), np.array([[3.0, -1.0, 0.0, 0.0]]))
    reward = sim.step(np.array([[0.5, -2.0]])).reward[0]
    assert reward == pytest.approx(-np.hypot(0.11, 0.1) - 0.25 - 4.0, abs=1e-9)


def test_the_last_step_of_a_modern_robot_pays_no_bonus() -> None:
    x, rest, goes_on = np.zeros(2), np.zeros((2, 3)), np.array([True, False])
    hopper = ROBOTS["hopper"]
    assert hopper.reward(x, x, rest, goes_on).tolist() == [1.0, 1.0]
    assert replace(hopper, modern=True).reward(x, x, rest, goes_on).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("key", ROBOTS)
def test_each_copy_sees_its_own_state(key: str) -> None:
    robot = ROBOTS[key]
    pair, rng = RobotSim(robot, 2), np.random.default_rng(0)
    states = [start_state(robot, pair.init_qpos, rng) for _ in range(2)]
    pair.set_state(np.arange(2), np.stack([q for q, _ in states]), np.stack([v for _, v in states]))
    control = rng.uniform(-robot.control, robot.control, (2, robot.nu))
    pair.step(control)
    for k, (qpos, qvel) in enumerate(states):
        alone = RobotSim(robot, 1)
        alone.set_state(np.arange(1), qpos[None], qvel[None])
        alone.step(control[k : k + 1])
        np.testing.assert_array_equal(pair.observe()[k], alone.observe()[0])


def test_a_state_that_is_set_leaves_nothing_of_what_was_before() -> None:
    robot = ROBOTS["hopper"]
    used, fresh = RobotSim(robot, 1), RobotSim(robot, 1)
    control = np.full((1, 3), 0.7)
    for _ in range(20):
        used.step(control)
    for sim in (used, fresh):
        sim.set_state(np.arange(1), sim.init_qpos, np.zeros(robot.nv))
    for _ in range(10):
        np.testing.assert_array_equal(used.step(control).reward, fresh.step(control).reward)
    warm = np.arange(1.0, 1 + robot.nv)
    used.set_state(np.arange(1), used.init_qpos, np.zeros(robot.nv), warm[None])
    np.testing.assert_array_equal(used._warm[0], warm)


def test_contacts_belong_to_the_copies_that_were_stepped() -> None:
    robot = ROBOTS_V5["ant"]
    sim, control = RobotSim(robot, 3), np.zeros((3, robot.nu))
    ids = np.arange(3)
    sim.set_state(ids, sim.init_qpos, np.zeros(robot.nv))
    for _ in range(20):  # until the feet touch the ground
        sim.step(control)
    before = sim.fields()["cfrc_ext"].copy()
    assert before.any(axis=(1, 2)).all()
    sim.step(control[:1] + 0.02, np.array([1]))
    after = sim.fields()["cfrc_ext"].copy()
    assert (after != before).any(axis=(1, 2)).tolist() == [False, True, False]
    sim.set_state(np.array([2]), sim.init_qpos, np.zeros(robot.nv))
    assert sim.fields()["cfrc_ext"].any(axis=(1, 2)).tolist() == [True, True, False]
    np.testing.assert_array_equal(sim.fields()["cfrc_ext"][:2], after[:2])


def test_there_are_no_more_threads_than_copies() -> None:
    assert RobotSim(ROBOTS["hopper"], 2, threads=8).threads == 2
    assert RobotSim(ROBOTS["hopper"], 3, threads=2).threads == 2


@pytest.mark.parametrize("changes", [{"timestep": 0.003}, {"nq": 7}, {"nu": 4}, {"control": 0.5}])
def test_another_model_than_the_robots_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MarlzooError, match=r"hopper\.xml is not the Hopper-v2 robot"):
        RobotSim(replace(ROBOTS["hopper"], **changes), 1)


def alive(key: str, qpos: list[float], qvel: float = 0.0) -> bool:
    robot = ROBOTS[key]
    assert robot.alive is not None
    padded = np.zeros((1, robot.nq))
    padded[0, : len(qpos)] = qpos
    return bool(robot.alive({"qpos": padded, "qvel": np.full((1, robot.nv), qvel)})[0])


def test_ends_of_episodes() -> None:
    assert alive("hopper", [0, 0.71, 0.19])
    assert alive("hopper", [500, 0.71, -0.19], qvel=99)
    assert not alive("hopper", [0, 0.70, 0])
    assert not alive("hopper", [0, 1.2, 0.2])
    assert not alive("hopper", [0, 1.2, 0], qvel=-100)
    assert not alive("hopper", [0, np.nan, 0])
    assert alive("hopper", [0, 150.0, 0])  # the height is not bounded from above
    assert alive("walker2d", [0, 1.99, 0.99])
    assert not alive("walker2d", [0, 2.0, 0])
    assert not alive("walker2d", [0, 0.8, 0])
    assert not alive("walker2d", [0, 1.2, -1.0])
    assert alive("ant", [0, 0, 0.2])
    assert alive("ant", [0, 0, 1.0])
    assert not alive("ant", [0, 0, 1.01])
    assert not alive("ant", [0, 0, 0.5], qvel=np.inf)
    assert alive("humanoid", [0, 0, 1.0])
    assert not alive("humanoid", [0, 0, 0.99])
    assert not alive("humanoid", [0, 0, 2.01])
    assert ROBOTS["halfcheetah"].alive is ROBOTS["reacher"].alive is ROBOTS["swimmer"].alive is None


@pytest.mark.parametrize("key", ROBOTS)
def test_starts_are_noise_of_the_right_kind_around_the_model(key: str) -> None:
    robot = ROBOTS[key]
    init = legacy_model(robot.asset, robot.total_mass).qpos0
    rng = np.random.default_rng(0)
    states = [start_state(robot, init, rng) for _ in range(500)]
    qpos, qvel = np.stack([q for q, _ in states]) - init, np.stack([v for _, v in states])
    moved = slice(0, 2) if key == "reacher" else slice(0, 3) if robot.nq > robot.nv else slice(None)
    assert 0.97 * robot.qpos_noise < np.abs(qpos[:, moved]).max() <= robot.qpos_noise
    assert qpos[:, moved].min() < -0.97 * robot.qpos_noise
    if robot.normal_qvel:
        assert qvel.std() == pytest.approx(0.1, rel=0.05)
        assert np.abs(qvel).max() > 0.25
    else:
        assert 0.97 * robot.qvel_noise < np.abs(qvel).max() <= robot.qvel_noise
    if key == "reacher":
        goal = np.linalg.norm(qpos[:, 2:] + init[2:], axis=1)
        assert 0.18 < goal.max() < 0.2
        assert not qvel[:, 2:].any()
    if robot.nq > robot.nv:
        np.testing.assert_allclose(np.linalg.norm(qpos[:, 3:7] + init[3:7], axis=1), 1)


def test_results_do_not_depend_on_threads() -> None:
    one, two = golden_episode("ant", num_envs=5, threads=1), golden_episode("ant", num_envs=5, threads=2)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_engines_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import mujoco

    monkeypatch.setattr(mujoco, "__version__", "4.0.0")
    require_mujoco.cache_clear()
    try:
        with pytest.raises(MarlzooError, match=r'4\.0\.0.*-m pip install "mujoco[<>]'):
            require_mujoco()
    finally:
        monkeypatch.undo()
        require_mujoco.cache_clear()
