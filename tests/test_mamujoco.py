"""The multi-agent tasks: shapes, teams, copies, ends of episodes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from marlzoo.envs import mamujoco
from marlzoo.envs._local import joints_within
from marlzoo.envs._partitions import PARTITIONS, TASK_TABLE
from marlzoo.envs.mamujoco import MAMuJoCo
from marlzoo.errors import ConfigError, UnknownNameError

# Agents, observation size, action size of the standardized tasks.
OMIGA = {
    "halfcheetah-6x1": (6, 23, 1),
    "halfcheetah-3x2": (3, 20, 2),
    "halfcheetah-2x3": (2, 19, 3),
    "hopper-3x1": (3, 14, 1),
    "ant-2x4": (2, 113, 4),
    "ant-2x4d": (2, 113, 4),
    "ant-4x2": (4, 115, 2),
    "ant-8x1": (8, 119, 1),
    "walker2d-2x3": (2, 19, 3),
    "walker2d-6x1": (6, 23, 1),
    "humanoid-9-8": (2, 378, 9),
    "humanoid-17x1": (17, 393, 1),
    "reacher-2x1": (2, 13, 1),
    "swimmer-2x1": (2, 10, 1),
}
# Observation sizes of the local tasks with distance 0 and 1, and the size of the raw state.
LOCAL = {
    "halfcheetah-2x3": (6, 7, 17),
    "halfcheetah-6x1": (2, 4, 17),
    "hopper-3x1": (2, 4, 11),
    "walker2d-2x3": (6, 7, 17),
    "ant-2x4": (50, 52, 111),
    "ant-4x2": (28, 31, 111),
    "humanoid-9-8": (27, 33, 376),
    "reacher-2x1": (6, 8, 11),
    "swimmer-2x1": (2, 3, 8),
}


def actions(env: MAMuJoCo, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape = (env.num_envs, env.spec.n_agents, env.spec.action_size)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_listing_tasks_starts_no_simulator() -> None:
    code = (
        "import sys; from marlzoo.envs import mamujoco as m; [m.spec(t) for t in m.TASKS];"
        "print([p for p in ('mujoco', 'gymnasium', 'torch') if p in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_task_names() -> None:
    local = {f"{name}-obsk{k}" for name in LOCAL for k in (0, 1)}
    assert set(mamujoco.TASKS) == set(OMIGA) | local


@pytest.mark.parametrize("name", OMIGA)
def test_standardized_sizes(name: str) -> None:
    n, obs, act = OMIGA[name]
    spec = mamujoco.spec(name)
    assert (spec.n_agents, spec.obs_size, spec.action_size) == (n, obs, act)
    assert spec.state_size == n * obs
    assert spec.horizon == 1000
    assert spec.action_sizes == ((9, 8) if name == "humanoid-9-8" else (act,) * n)


@pytest.mark.parametrize("name", LOCAL)
def test_local_sizes(name: str) -> None:
    near, far, state = LOCAL[name]
    for k, size in ((0, near), (1, far)):
        spec = mamujoco.spec(f"{name}-obsk{k}")
        assert (spec.obs_size, spec.state_size) == (size, state)


@pytest.mark.parametrize("name", mamujoco.TASKS)
def test_every_task_steps(name: str) -> None:
    env = mamujoco.make(name, 2, threads=1)
    assert env.spec == mamujoco.spec(name)
    assert env.task == f"mamujoco/{name}"
    for seen in (env.reset(), env.step(actions(env))):
        assert seen.obs.shape == (2, env.spec.n_agents, env.spec.obs_size)
        assert seen.state.shape == (2, env.spec.state_size)
        assert seen.obs.dtype == seen.state.dtype == np.float32
        assert np.isfinite(seen.obs).all()
        assert np.isfinite(seen.state).all()
    step = env.step(actions(env))
    for array, dtype in ((step.reward, np.float32), (step.terminal, np.bool_), (step.truncated, np.bool_)):
        assert array.shape == (2,)
        assert array.dtype == dtype
    assert step.info["unstable"].tolist() == [False, False]
    env.close()


def test_metadata_says_what_the_data_must_share() -> None:
    env = mamujoco.make("halfcheetah-2x3", 1, action_mapping="scatter")
    assert env.metadata["robot"] == "HalfCheetah"
    assert env.metadata["partition"] == "2x3"
    assert env.metadata["flavor"] == "omiga"
    assert env.metadata["action_mapping"] == "scatter"
    assert env.metadata["physics"] == "v2-legacy"
    assert env.metadata["engine"] == "mujoco"
    assert env.metadata["engine_version"].startswith("3.")


# Actuator indices of each agent under both mappings, from the literature's tables.
OWNERS = {
    "halfcheetah-2x3": (((0, 1, 2), (3, 4, 5)), ((2, 1, 0), (5, 4, 3))),
    "halfcheetah-6x1": (((0,), (1,), (2,), (3,), (4,), (5,)), ((2,), (1,), (0,), (5,), (4,), (3,))),
    "hopper-3x1": (((0,), (1,), (2,)), ((0,), (1,), (2,))),
    "ant-2x4": (((0, 1, 2, 3), (4, 5, 6, 7)), ((2, 3, 4, 5), (6, 7, 0, 1))),
    "ant-4x2": (((0, 1), (2, 3), (4, 5), (6, 7)), ((2, 3), (4, 5), (6, 7), (0, 1))),
    "ant-2x4d": (((0, 1, 2, 3), (4, 5, 6, 7)), ((2, 3, 6, 7), (4, 5, 0, 1))),
    "walker2d-2x3": (((0, 1, 2), (3, 4, 5)), ((2, 1, 0), (5, 4, 3))),
    "humanoid-9-8": (
        ((0, 1, 2, 3, 4, 5, 6, 7, 8), (9, 10, 11, 12, 13, 14, 15, 16)),
        ((14, 15, 2, 0, 1, 11, 12, 13, 16), (7, 9, 8, 3, 5, 4, 6, 10)),
    ),
}


@pytest.mark.parametrize("name", OWNERS)
@pytest.mark.parametrize("mapping", ["concat", "scatter"])
def test_actuators_of_each_agent(name: str, mapping: Any) -> None:
    owners = OWNERS[name][mapping == "scatter"]
    assert TASK_TABLE[name].partition.owners(mapping) == owners
    env = mamujoco.make(name, 1, action_mapping=mapping)
    env.reset()
    action = actions(env)
    env.step(action)
    held = env._sim._control[0]
    for i, owned in enumerate(owners):
        np.testing.assert_allclose(
            held[list(owned)], action[0, i, : len(owned)] * env.robot.control, rtol=1e-6
        )


@pytest.mark.parametrize("partition", PARTITIONS, ids=lambda p: p.name)
def test_every_actuator_has_one_owner(partition: Any) -> None:
    for mapping in ("concat", "scatter") if partition.scatter else ("concat",):
        owners = partition.owners(mapping)
        assert tuple(map(len, owners)) == partition.sizes
        assert sorted(a for owned in owners for a in owned) == list(range(sum(partition.sizes)))


def test_local_observation_of_the_halfcheetah() -> None:
    env = mamujoco.make("halfcheetah-2x3-obsk1", 2)
    seen = env.reset()
    fields = env._sim.fields()
    q, v = fields["qpos"], fields["qvel"]
    bthigh, bshin, bfoot, fthigh, fshin, ffoot = range(3, 9)
    back = [q[:, bfoot], v[:, bfoot], q[:, bshin], v[:, bshin], q[:, bthigh], v[:, bthigh], q[:, fthigh]]
    front = [q[:, ffoot], v[:, ffoot], q[:, fshin], v[:, fshin], q[:, fthigh], v[:, fthigh], q[:, bthigh]]
    np.testing.assert_allclose(seen.obs[:, 0], np.stack(back, 1), rtol=1e-6)
    np.testing.assert_allclose(seen.obs[:, 1], np.stack(front, 1), rtol=1e-6)
    np.testing.assert_allclose(seen.state, np.concatenate([q[:, 1:], v], 1), rtol=1e-6)


def test_local_observation_of_the_ant() -> None:
    env = mamujoco.make("ant-4x2-obsk1", 1)
    obs = env.reset().obs[0]
    q, v = env._sim.fields()["qpos"][0], env._sim.fields()["qvel"][0]
    # Agent 1 is leg 2: coordinates 9 (hip) and 10 (ankle), velocities 8 and 9; other hips 7, 11, 13.
    wanted = np.zeros(31)
    wanted[:2], wanted[20:22], wanted[28:] = (q[10], v[9]), (q[9], v[8]), (q[7], q[11], q[13])
    np.testing.assert_allclose(obs[1], wanted, rtol=1e-6)


def test_local_observation_of_the_reacher() -> None:
    env = mamujoco.make("reacher-2x1-obsk1", 1)
    env.reset()
    seen = env.step(actions(env))
    q, v = env._sim.fields()["qpos"][0], env._sim.fields()["qvel"][0]
    first = [np.sin(q[0]), np.cos(q[0]), v[0], np.sin(q[1]), np.cos(q[1]), 0, 0, 0]
    second = [np.sin(q[1]), np.cos(q[1]), v[1], *seen.state[0, 8:], np.sin(q[0]), np.cos(q[0])]
    np.testing.assert_allclose(seen.obs[0], [first, second], rtol=1e-6)


def test_local_observation_of_the_hopper_and_humanoid() -> None:
    hopper = mamujoco.make("hopper-3x1-obsk1", 1)
    hopper._sim.set_state(np.arange(1), hopper._sim.init_qpos, np.array([[0, 0, 0, 20.0, -30.0, 3.0]]))
    hopper._observe(None)
    q = hopper._sim.fields()["qpos"][0]
    wanted = [[q[3], 10, q[4], 0], [q[4], -10, q[5], q[3]], [q[5], 3, q[4], 0]]
    np.testing.assert_allclose(hopper._obs[0], wanted, rtol=1e-6)
    humanoid = mamujoco.make("humanoid-9-8-obsk0", 1)
    humanoid.reset()
    humanoid.step(actions(humanoid))
    fields = humanoid._sim.fields()
    # abdomen_x is the third joint after the root: coordinate 9, velocity 8.
    wanted_x = [fields["qpos"][0, 9], fields["qvel"][0, 8], fields["qfrc_actuator"][0, 8]]
    np.testing.assert_allclose(humanoid._obs[0, 0, :3], wanted_x, rtol=1e-6)


@pytest.mark.parametrize(
    ("robot", "own", "rings"),
    [
        ("halfcheetah", "bfoot", ["bshin", "bthigh", "fthigh", "fshin", "ffoot"]),
        ("walker2d", "foot", ["leg", "thigh", "thigh_left", "leg_left", "foot_left"]),
        ("hopper", "foot", ["leg", "thigh"]),
        ("ant", "ankle2", ["hip2", "hip1 hip3 hip4", "ankle1 ankle3 ankle4"]),
        ("humanoid", "left_knee", ["left_hip_x left_hip_y left_hip_z", "abdomen_x abdomen_y abdomen_z"]),
        ("humanoid", "right_elbow", ["right_shoulder1 right_shoulder2", "abdomen_x abdomen_y abdomen_z"]),
    ],
)
def test_joints_by_their_distance(robot: str, own: str, rings: list[str]) -> None:
    assert joints_within(robot, (own,), len(rings)) == [[own], *(ring.split() for ring in rings)]


def test_humanoids_own_joints_are_the_models() -> None:
    env = mamujoco.make("humanoid-9-8-obsk0", 1)
    env.reset()
    obs = env.step(actions(env)).obs[0]
    fields = {name: field[0] for name, field in env._sim.fields().items()}
    owners = TASK_TABLE["humanoid-9-8-obsk0"].partition.scatter
    assert owners is not None
    for seen, owned in zip(obs, owners, strict=True):
        names = sorted(env._sim.model.joint(env._sim.model.actuator(a).trnid[0]).name for a in owned)
        joints = [env._sim.model.joint(name) for name in names]
        wanted = [
            (fields["qpos"][j.qposadr[0]], fields["qvel"][j.dofadr[0]], fields["qfrc_actuator"][j.dofadr[0]])
            for j in joints
        ]
        np.testing.assert_allclose(seen[: 3 * len(names)], np.ravel(wanted), rtol=1e-6)


def test_walkers_joints_show_velocities_beyond_the_bound_of_the_state() -> None:
    env = mamujoco.make("walker2d-2x3-obsk0", 1)
    speeds = np.array([[0, 0, 0, 20.0, -30.0, 3.0, 11.0, -12.0, 1.0]])
    env._sim.set_state(np.arange(1), env._sim.init_qpos, speeds)
    env._observe(None)
    np.testing.assert_allclose(env._obs[0, :, 1::2], [[3, -30, 20], [1, -12, 11]])  # foot, leg, thigh
    np.testing.assert_allclose(env._state[0, -6:], np.clip(speeds[0, 3:], -10, 10))


def episode(seeds: list[int], copy: int, threads: int) -> list[np.ndarray[Any, Any]]:
    """What one copy sees and earns from its reset on, all copies acting alike."""
    env = mamujoco.make("hopper-3x1", len(seeds), threads=threads)
    env.seed(seeds)
    out = [env.reset().obs[copy].copy()]
    for t in range(30):
        step = env.step(np.full((len(seeds), 3, 1), 0.2 * np.sin(t), np.float32))
        out += [step.obs[copy].copy(), step.reward[copy : copy + 1]]
    return out


def test_a_copys_episode_depends_on_its_seed_alone() -> None:
    alone = episode([7], 0, threads=1)
    for other in (episode([5, 6, 7, 8, 9], 2, threads=2), episode([7, 7, 1], 1, threads=1)):
        for a, b in zip(alone, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert (episode([8], 0, threads=1)[0] != alone[0]).any()


def test_random_streams_go_on_from_reset_to_reset() -> None:
    env = mamujoco.make("hopper-3x1", 2)
    env.seed([3, 4])
    first = env.reset().obs.copy()
    second = env.reset(np.array([1])).obs.copy()
    assert (first[1] != second[1]).any()
    env.seed([3, 4])
    np.testing.assert_array_equal(env.reset().obs, first)
    np.testing.assert_array_equal(env.reset(np.array([1])).obs, second)


def test_a_copy_that_is_reset_alone_draws_from_its_own_stream() -> None:
    env, alone = mamujoco.make("hopper-3x1", 2), mamujoco.make("hopper-3x1", 1)
    env.seed([3, 4])
    alone.seed([4])
    np.testing.assert_array_equal(env.reset(np.array([1])).obs[1], alone.reset().obs[0])


def test_resetting_some_copies_leaves_the_others() -> None:
    env = mamujoco.make("ant-2x4", 4)
    env.reset()
    env.step(actions(env))
    before = env._obs.copy()
    state = {name: field.copy() for name, field in env._sim.fields().items()}
    seen = env.reset(np.array([1, 3]))
    for name, field in env._sim.fields().items():
        np.testing.assert_array_equal(field[[0, 2]], state[name][[0, 2]])
        assert (field[[1, 3]] != state[name][[1, 3]]).any()
    np.testing.assert_array_equal(seen.obs[[0, 2]], before[[0, 2]])
    assert (seen.obs[1] != before[1]).any()
    assert (seen.obs[3] != before[3]).any()


def test_stepping_some_copies_leaves_the_others() -> None:
    env = mamujoco.make("hopper-3x1", 4)
    env.reset()
    whole = mamujoco.make("hopper-3x1", 4)
    whole.reset()
    before = env._obs.copy()
    action = actions(env)
    action[0] = np.nan  # rows of copies that are not stepped are ignored
    part = env.step(action, np.array([3, 1]))
    action[0] = 0
    full = whole.step(action)
    np.testing.assert_array_equal(part.obs[[1, 3]], full.obs[[1, 3]])
    np.testing.assert_array_equal(part.reward[[1, 3]], full.reward[[1, 3]])
    np.testing.assert_array_equal(part.obs[[0, 2]], before[[0, 2]])
    assert not part.reward[[0, 2]].any()
    assert not part.terminal[[0, 2]].any()
    assert not env.step(action, np.array([], np.intp)).reward.any()


def test_state_of_the_standardized_flavor_is_a_view_of_the_observations() -> None:
    env = mamujoco.make("hopper-3x1", 2)
    seen = env.reset()
    assert np.shares_memory(seen.obs, seen.state)
    np.testing.assert_array_equal(seen.state, seen.obs.reshape(2, -1))


def test_time_limit_is_not_terminal() -> None:
    env = mamujoco.make("swimmer-2x1", 2, horizon=3)
    assert env.spec.horizon == 3
    env.reset()
    env.step(actions(env))
    env.reset(np.array([1]))
    flags = [(s.truncated.tolist(), s.terminal.tolist()) for s in (env.step(actions(env)) for _ in range(3))]
    never = [False, False]
    assert flags == [(never, never), ([True, False], never), ([True, True], never)]


def test_only_stepped_copies_age() -> None:
    env = mamujoco.make("swimmer-2x1", 2, horizon=3)
    env.reset()
    env.step(actions(env), np.array([1]))
    env.step(actions(env), np.array([1]))
    assert env.step(actions(env)).truncated.tolist() == [False, True]


def test_actions_beyond_the_box_are_paid_for_in_full() -> None:
    env = mamujoco.make("halfcheetah-6x1", 1)
    env.reset()
    before = env._sim.measure()
    step = env.step(np.full((1, 6, 1), 3.0, np.float32))
    moved = (env._sim.measure() - before)[0] / env.robot.dt
    assert step.reward[0] == pytest.approx(moved - 0.1 * 6 * 9.0, rel=1e-5)


def test_terminal_step_pays_the_survive_bonus_and_is_no_time_limit() -> None:
    env = mamujoco.make("hopper-3x1", 1, horizon=1)
    env.reset()
    env._sim.set_state(
        np.arange(1), np.array([[0.0, 1.25, 0.199, 0, 0, 0]]), np.array([[0, 0, 1.0, 0, 0, 0]])
    )
    before = env._sim.measure()
    step = env.step(np.zeros((1, 3, 1), np.float32))
    assert step.terminal[0]
    assert not step.truncated[0]
    assert not step.info["unstable"][0]  # it fell, the engine did not give it up
    moved = (env._sim.measure() - before)[0] / env.robot.dt
    assert step.reward[0] == pytest.approx(moved + 1.0, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_copy_that_blows_up_ends_and_leaves_its_neighbors(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)  # the engine logs the event into the working directory
    env, calm = mamujoco.make("halfcheetah-6x1", 3), mamujoco.make("halfcheetah-6x1", 3)
    env.reset()
    calm.reset()
    env._sim.fields()["qvel"][1] = 1e12
    step, quiet = env.step(actions(env)), calm.step(actions(env))
    assert step.info["unstable"].tolist() == [False, True, False]
    assert step.terminal.tolist() == [False, True, False]
    assert step.reward[1] == 0
    assert np.isfinite(step.obs).all()
    np.testing.assert_array_equal(step.obs[[0, 2]], quiet.obs[[0, 2]])
    assert not quiet.info["unstable"].any()
    assert not env.step(actions(env)).info["unstable"].any()  # the engine has put it back
    env.reset(np.array([1]))
    assert not env.step(actions(env)).info["unstable"].any()


def test_bad_actions_and_copies() -> None:
    env = mamujoco.make("hopper-3x1", 3)
    env.reset()
    action = actions(env)
    action[2, 1] = np.inf
    with pytest.raises(ValueError, match="copies 2 are not finite"):
        env.step(action)
    with pytest.raises(ValueError, match="copies 2 are not finite"):
        env.step(action, np.array([0, 2]))
    with pytest.raises(ValueError, match=r"shape \(3, 3, 1\)"):
        env.step(actions(env)[:2])
    mask: Any = np.array([True, False, True])
    with pytest.raises(ValueError, match="indices"):
        env.step(actions(env), mask)
    with pytest.raises(ConfigError, match="seeds"):
        env.seed([1])


def test_bad_names_and_options() -> None:
    with pytest.raises(UnknownNameError, match="hopper-3x1"):
        mamujoco.make("hoper-3x1", 1)
    with pytest.raises(UnknownNameError, match="action_mapping"):
        mamujoco.make("hopper-3x1", 1, action_maping="scatter")
    with pytest.raises(UnknownNameError, match="horizon"):
        mamujoco.spec("hopper-3x1", horizn=3)
    with pytest.raises(ConfigError, match="concat"):
        mamujoco.spec("hopper-3x1", action_mapping="labels")
    with pytest.raises(ConfigError, match="no scattered"):
        mamujoco.spec("ant-8x1", action_mapping="scatter")
    for name in ("horizon", "threads"):
        options: dict[str, Any] = {name: 0}
        with pytest.raises(ConfigError, match=name):
            mamujoco.make("hopper-3x1", 1, **options)
    with pytest.raises(ConfigError, match="num_envs"):
        mamujoco.make("hopper-3x1", 0)


class Picture:
    """In place of a camera: shows the state that it is given."""

    def __init__(self, model: Any, width: int, height: int, table: bool) -> None:
        self.table = table
        self.closed = False

    def take(self, qpos: Any) -> Any:
        return qpos.copy()

    def close(self) -> None:
        self.closed = True


def test_a_picture_is_of_the_copy_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamujoco, "Camera", Picture)
    env = mamujoco.make("hopper-3x1", 3)
    env.reset()
    np.testing.assert_array_equal(env.render(2, 4, 3), env._sim.fields()["qpos"][2])


def test_closing_frees_simulations_and_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamujoco, "Camera", Picture)
    env = mamujoco.make("halfcheetah-2x3", 1)
    seen = env.reset()
    env.replay(seen.obs, actions(env))
    env.render(0, 4, 3)
    camera: Any = env._camera
    assert not camera.table  # it is seen from the side
    env.close()
    assert camera.closed
    assert env._replayer is not None
    for sim in (env._sim, env._replayer):
        assert sim._batch is None
        assert not sim.fields()
