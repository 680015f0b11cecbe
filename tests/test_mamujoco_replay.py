"""Standardized observations, their inverse, and replay of recorded transitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from marlzoo.envs import mamujoco
from marlzoo.envs._mujoco_robots import ROBOTS, start_state
from marlzoo.envs._mujoco_sim import RobotSim
from marlzoo.envs._standardized import standardize
from marlzoo.errors import DataError, MismatchError, SpecError
from tests import replay_check

GOLDEN = Path(__file__).parent / "golden" / "mujoco_v2"
STANDARDIZED = [name for name in mamujoco.TASKS if "obsk" not in name]


def test_standardization_is_the_plain_formula() -> None:
    raw = np.random.default_rng(0).normal(2, 5, (4, 11))
    for n in (2, 3, 17):
        z = np.concatenate([np.repeat(raw[:, None], n, 1), np.broadcast_to(np.eye(n), (4, n, n))], 2)
        wanted = (z - z.mean(2, keepdims=True)) / z.std(2, keepdims=True)
        np.testing.assert_allclose(standardize(raw, n), wanted, rtol=1e-12, atol=1e-12)


def test_standardized_vector_by_hand() -> None:
    # [3, 1, 0] and [3, 0, 1]: mean 4/3, variance 14/9.
    out = standardize(np.array([[3.0]]), 2)[0]
    root = np.sqrt(14.0)
    np.testing.assert_allclose(out, np.array([[5, -1, -4], [5, -4, -1]]) / root)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_standardization_is_inverted(n: int) -> None:
    raw = np.random.default_rng(1).normal(0, 3, (50, 17))
    np.testing.assert_allclose(mamujoco.recover_raw(standardize(raw, n)), raw, rtol=1e-10, atol=1e-10)
    single = standardize(raw, n).astype(np.float32)
    np.testing.assert_allclose(mamujoco.recover_raw(single), raw, rtol=0, atol=2e-5)
    single[3, 0, 0] = np.nan
    recovered = mamujoco.recover_raw(single)
    assert np.isnan(recovered[3]).all()
    assert np.isfinite(np.delete(recovered, 3, 0)).all()


def test_recovery_refuses_what_is_not_standardized() -> None:
    raw = np.random.default_rng(2).normal(0, 3, (5, 11))
    good = standardize(raw, 3)
    with pytest.raises(MismatchError, match="agent 0 in row 0 is not standardized"):
        mamujoco.recover_raw(good * 2)
    swapped = good.copy()
    swapped[4] = swapped[4, ::-1]
    with pytest.raises(MismatchError, match="row 4 has no agent one-hot"):
        mamujoco.recover_raw(swapped)
    mixed = good.copy()
    mixed[2, 1] = good[3, 1]
    with pytest.raises(MismatchError, match="row 2 decodes to another state"):
        mamujoco.recover_raw(mixed)


def roll(name: str, num_envs: int = 4, steps: int = 15) -> tuple[mamujoco.MAMuJoCo, tuple[NDArray[Any], ...]]:
    env = mamujoco.make(name, num_envs)
    obs = env.reset().obs.copy()
    rows: list[tuple[NDArray[Any], ...]] = []
    rng = np.random.default_rng(0)
    for _ in range(steps):
        shape = (num_envs, env.spec.n_agents, env.spec.action_size)
        action = (0.3 * rng.uniform(-1, 1, shape)).astype(np.float32)
        step = env.step(action)
        rows.append((obs, action, step.obs.copy(), step.reward, step.terminal))
        obs = step.obs.copy()
    return env, tuple(np.concatenate(part) for part in zip(*rows, strict=True))


@pytest.mark.parametrize("name", STANDARDIZED)
def test_replay_returns_the_recorded_step(name: str) -> None:
    env, (obs, action, next_obs, reward, terminal) = roll(name)
    result = env.replay(obs, action)
    valid = result.valid
    assert valid.mean() > 0.5
    error = np.abs(result.next_obs - next_obs).max((1, 2))[valid]
    assert np.median(error) < 2e-6
    assert np.quantile(error, 0.95) < 2e-5
    # A lagging position makes the Ant's and the Humanoid's rewards inexact, see the docstring of replay.
    limit = 1e-5 if env.replay_reward_exact else 1e-2
    assert np.median(np.abs(result.reward - reward)[valid]) < limit
    np.testing.assert_array_equal(result.terminal[valid], terminal[valid])
    assert env.replay_reward_exact == (env.robot.name not in ("Ant", "Humanoid"))


def test_replay_spans_chunks_and_does_not_disturb_the_copies() -> None:
    env, (obs, action, next_obs, *_) = roll("hopper-3x1", num_envs=20, steps=20)
    assert len(obs) > mamujoco.REPLAY_COPIES
    before = env._sim.fields()["qpos"].copy()
    result = env.replay(obs, action)
    np.testing.assert_array_equal(env._sim.fields()["qpos"], before)
    assert np.median(np.abs(result.next_obs - next_obs)[result.valid]) < 1e-6


def test_replay_marks_rows_it_cannot_recover() -> None:
    env, (obs, action, *_) = roll("hopper-3x1")
    raw = mamujoco.recover_raw(obs)
    raw[2, -1] = 10.0
    clipped = standardize(raw, 3).astype(np.float32)
    clipped[5, 0, 0] = np.nan
    action[7, 1, 0] = np.inf
    valid = env.replay(clipped, action).valid
    assert np.flatnonzero(~valid).tolist() == [2, 5, 7]


def test_replay_names_data_with_contact_forces() -> None:
    env, (obs, action, *_) = roll("ant-2x4")
    raw = mamujoco.recover_raw(obs)
    raw[9, 50] = 0.3
    with pytest.raises(MismatchError, match=r"row 9 holds 0\.3.*contact forces"):
        env.replay(standardize(raw, 2).astype(np.float32), action)


def test_replay_refuses_local_observations_and_wrong_shapes() -> None:
    env = mamujoco.make("hopper-3x1-obsk0", 1)
    assert not env.replayable
    with pytest.raises(SpecError, match="do not determine"):
        env.replay(np.zeros((1, 3, 2), np.float32), np.zeros((1, 3, 1), np.float32))
    assert not env.state_replayable  # published states are of other kinds
    full = mamujoco.make("hopper-3x1", 1)
    with pytest.raises(SpecError, match=r"\[B, 3, 14\]"):
        full.replay(np.zeros((1, 3, 13), np.float32), np.zeros((1, 3, 1), np.float32))


@pytest.mark.parametrize("robot", ["HalfCheetah", "Hopper"])
def test_recordings_of_the_genuine_tasks_agree(robot: str) -> None:
    report = replay_check.check(GOLDEN / f"replay_{robot}-v2.npz")
    assert report.passed, report.text()
    assert report.left_out == 0
    assert np.median(report.state) < 1e-13
    assert report.mass_difference == pytest.approx(0, abs=1e-12)
    if robot == "Hopper":
        with np.load(GOLDEN / "replay_Hopper-v2.npz", allow_pickle=False) as data:
            assert 0 < data["done"].sum() < len(data["done"])


def record(key: str, path: Path, steps: int = 12, episodes: int = 3, **changes: NDArray[Any]) -> Path:
    """Write a recording of our own simulator in the layout of the genuine ones."""
    robot = ROBOTS[key]
    sim = RobotSim(robot, episodes)
    ids = np.arange(episodes)
    starts = [start_state(robot, sim.init_qpos, np.random.default_rng(i)) for i in ids]
    sim.set_state(ids, np.stack([q for q, _ in starts]), np.stack([v for _, v in starts]))
    torso, rng = sim._batch.bind("xpos"), np.random.default_rng(1)
    rows: list[dict[str, NDArray[Any]]] = []
    for t in range(steps):
        fields = sim.fields(ids)
        row = {"traj": ids, "t": np.full(episodes, t), "qpos": fields["qpos"], "qvel": fields["qvel"]}
        row |= {"warm": sim._warm.copy(), "obs": sim.observe()}
        row["act"] = robot.control * rng.uniform(-1, 1, (episodes, robot.nu))
        step = sim.step(row["act"])
        fields = sim.fields(ids)
        row |= {"nqpos": fields["qpos"], "nqvel": fields["qvel"], "nobs": sim.observe(), "rew": step.reward}
        rows.append(row | {"done": ~step.alive, "xposb": torso[:, 1].copy()})
    arrays = {k: np.stack([r[k] for r in rows], 1).reshape(-1, *rows[0][k].shape[1:]) for k in rows[0]}
    scalars = {"frame_skip": np.array(robot.frame_skip), "dt": np.array(robot.dt)}
    target = path / f"replay_{robot.name}-v2.npz"
    np.savez(target, **{**arrays, **scalars, **changes})  # type: ignore[arg-type]
    return target


@pytest.mark.parametrize("key", ROBOTS)
def test_check_agrees_with_itself_on_every_robot(key: str, tmp_path: Path) -> None:
    report = replay_check.check(record(key, tmp_path))
    assert report.passed, report.text()
    assert len(report.reward) == 36
    assert report.state.max() == 0
    assert report.reward.max() == 0


def edit(path: Path, **changes: Any) -> None:
    with np.load(path, allow_pickle=False) as file:
        arrays = {**file, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


@pytest.mark.parametrize("key", ["ant", "humanoid"])
def test_check_leaves_out_rewards_whose_start_is_unknown(key: str, tmp_path: Path) -> None:
    path = record(key, tmp_path)
    with np.load(path, allow_pickle=False) as file:
        rows = {k: v[[0, 1, 3, 4, 5, 20]] if v.ndim else v for k, v in file.items()}
    edit(path, **rows)
    report = replay_check.check(path)
    assert report.left_out == 2  # t = 3 without t = 2, and t = 8 of the second episode
    assert report.passed, report.text()


def test_check_notices_wrong_physics_rewards_and_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record("hopper", tmp_path)
    with np.load(path, allow_pickle=False) as file:
        data = dict(file)
    assert replay_check.main([str(path)]) == 0
    for change in (
        {"nqvel": data["nqvel"] * 1.001},
        {"rew": data["rew"] + 1e-6},
        {"done": ~data["done"]},
        {"nqpos": np.where(np.arange(36)[:, None] == 7, np.nan, data["nqpos"])},
    ):
        edit(path, **{**data, **change})
        assert replay_check.main([str(path)]) == 1
        assert "DOES NOT AGREE" in capsys.readouterr().out


def test_check_names_what_is_wrong_with_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay_check.main([]) == 2
    assert replay_check.main([str(tmp_path / "replay_Ant-v2.npz")]) == 2
    with pytest.raises(DataError, match="names no robot"):
        replay_check.check(tmp_path / "replay_Fish-v2.npz")
    path = record("reacher", tmp_path)
    edit(path, obs=None)
    with pytest.raises(DataError, match="arrays missing: obs"):
        replay_check.check(path)
    path = record("swimmer", tmp_path, frame_skip=np.array(5))
    with pytest.raises(DataError, match="frame_skip"):
        replay_check.check(path)
    path = record("swimmer", tmp_path, act=np.zeros((36, 3)))
    with pytest.raises(DataError, match=r"act has shape \(36, 3\)"):
        replay_check.check(path)
    path = record("swimmer", tmp_path, rew=np.zeros(35))
    with pytest.raises(DataError, match=r"rew has shape \(35,\)"):
        replay_check.check(path)
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match="not a readable recording"):
        replay_check.check(path)


def test_check_ignores_what_else_a_recording_holds(tmp_path: Path) -> None:
    assert replay_check.check(record("swimmer", tmp_path, note=np.array("a text"))).passed
