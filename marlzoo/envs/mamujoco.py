"""Multi-agent MuJoCo: the Gym ``-v2`` robots divided among agents, E copies stepped together.

Physics, rewards, ends of episodes and starts are those of Gym 0.17.2's ``-v2`` tasks, on which OMIGA's,
OMAR's and their relatives' data were made (see :mod:`marlzoo.envs._mujoco_legacy` and
:mod:`marlzoo.envs._mujoco_robots`). Two flavors of observation:

- OMIGA's, the plain task names: every agent sees the full observation with its own one-hot appended, and
  this vector standardized over its own entries; the state is all agents' vectors end to end;
- local, the names ending in ``-obskK``: joints up to distance K of the agent's own, raw; the state is the
  full raw observation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._camera import Camera
from marlzoo.envs._local import local_columns
from marlzoo.envs._mujoco_robots import ROBOTS, Array, Robot, start_state
from marlzoo.envs._mujoco_sim import RobotSim
from marlzoo.envs._partitions import TASK_TABLE, ActionMapping, Owners, RobotTask
from marlzoo.envs._replay import replay_observations
from marlzoo.envs._standardized import recover_raw
from marlzoo.envs._views import LocalView, Standardized, View
from marlzoo.envs.base import BatchedEnv, Floats, Ids, Observation, Resimulation, Step
from marlzoo.errors import ConfigError, SpecError, UnknownNameError
from marlzoo.spec import Spec

FAMILY = "mamujoco"
HORIZON = 1000
TASKS: tuple[str, ...] = tuple(TASK_TABLE)
OPTIONS = ("action_mapping", "threads", "horizon")
REPLAY_COPIES = 256  # size of the private batch that replays recorded transitions

__all__ = ["TASKS", "MAMuJoCo", "make", "recover_raw", "spec"]


def _task(name: str, options: dict[str, Any]) -> RobotTask:
    if name not in TASK_TABLE:
        raise UnknownNameError(f"{FAMILY} task", name, TASKS)
    for option in options:
        if option not in OPTIONS:
            raise UnknownNameError(f"option of {FAMILY}/{name}", option, OPTIONS)
    return TASK_TABLE[name]


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"{FAMILY}: {name} must be a positive integer, got {value!r}")
    return int(value)


def spec(name: str, **options: Any) -> Spec:
    """Shape of the task ``name`` (without family), without starting a simulator.

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
    """
    task = _task(name, options)
    task.partition.owners(options.get("action_mapping", "concat"))
    robot = ROBOTS[task.partition.robot]
    sizes = task.partition.sizes
    n = len(sizes)
    if task.distance is None:
        obs_sizes: tuple[int, ...] = (robot.obs_size + n,) * n
        state_size = n * obs_sizes[0]
    else:
        obs_sizes = tuple(map(len, local_columns(task)))
        state_size = robot.obs_size
    return Spec(
        n_agents=n,
        obs_size=max(obs_sizes),
        state_size=state_size,
        action_kind="continuous",
        action_size=max(sizes),
        horizon=_positive("horizon", options.get("horizon", HORIZON)),
        obs_sizes=obs_sizes,
        action_sizes=sizes,
    )


def make(
    name: str,
    num_envs: int,
    action_mapping: ActionMapping = "concat",
    threads: int | None = None,
    horizon: int = HORIZON,
    **unknown: Any,
) -> MAMuJoCo:
    """Make E copies of the task ``name`` (without family).

    Args:
        name: one of :data:`TASKS`.
        num_envs: number of copies E.
        action_mapping: which actuators an agent owns, ``concat`` (OMIGA's data) or ``scatter``.
        threads: worker threads; None: one per usable core. Results do not depend on it.
        horizon: time limit in steps.
        unknown: refused; caught to name the nearest option.

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
        MarlzooError: the simulator is missing or of the wrong version.
    """
    task = _task(name, unknown)
    shape = spec(name, action_mapping=action_mapping, horizon=horizon)
    workers = None if threads is None else _positive("threads", threads)
    return MAMuJoCo(
        f"{FAMILY}/{name}",
        ROBOTS[task.partition.robot],
        shape,
        _positive("num_envs", num_envs),
        workers,
        owners=task.partition.owners(action_mapping),
        view=_view(task, shape.n_agents),
        properties={
            "partition": task.partition.label,
            "flavor": task.flavor,
            "action_mapping": action_mapping,
        },
    )


def _view(task: RobotTask, n_agents: int) -> View:
    if task.distance is None:
        return Standardized(n_agents)
    return LocalView(local_columns(task), ROBOTS[task.partition.robot])


class MAMuJoCo(BatchedEnv):
    """E copies of one team on one robot; made by :func:`make`.

    A copy starts with the random stream of ``seed([0, 1, ...])``. ``info["unstable"] [E]`` marks copies whose
    simulation blew up in this step: the engine resets them, so their episode ends as terminal, reward 0.

    Args:
        task: full name.
        robot: the robot.
        shape: of the task.
        num_envs: number of copies E.
        threads: worker threads; None: one per usable core.
        owners: actuators of each agent.
        view: what the agents see.
        properties: the team's part of ``metadata``.
        clip: clip actions to [-1, 1] before they are paid for; otherwise the engine alone clips them.
        states_elsewhere: sizes of the state in other versions of the robot, with those versions' names.

    Attributes:
        threads: worker threads.
        replay_reward_exact: whether :meth:`replay` gives rewards up to rounding (all but Ant and Humanoid).
    """

    may_hang = False

    def __init__(
        self,
        task: str,
        robot: Robot,
        shape: Spec,
        num_envs: int,
        threads: int | None,
        *,
        owners: Owners,
        view: View,
        properties: dict[str, Any],
        clip: bool = False,
        states_elsewhere: Mapping[int, str] | None = None,
    ) -> None:
        self.task = task
        self.spec = shape
        self.num_envs = num_envs
        self.robot = robot
        self.replayable = view.recover is not None
        self.state_replayable = view.recover_state is not None
        self.replay_reward_exact = not robot.lagging or robot.reaches
        self._view = view
        self._clip = clip
        self.states_elsewhere = states_elsewhere or {}
        self._sim = RobotSim(robot, num_envs, threads)
        self.threads = self._sim.threads
        self.metadata = {"robot": robot.name, **properties, **self._sim.versions()}
        # Entry of the flat [N * A] action that drives each actuator.
        place = {a: i * shape.action_size + j for i, owned in enumerate(owners) for j, a in enumerate(owned)}
        self._source = np.array([place[a] for a in range(robot.nu)])
        self._obs: Floats = np.zeros((num_envs, shape.n_agents, shape.obs_size), np.float32)
        # Where the state is the observations end to end, it is a view, never a copy.
        self._state: Floats = (
            self._obs.reshape(num_envs, -1)
            if view.joined
            else np.zeros((num_envs, shape.state_size), np.float32)
        )
        self._replayer: RobotSim | None = None
        self._camera: Camera | None = None
        self._time = np.zeros(num_envs, np.int64)
        self._all: Ids = np.arange(num_envs)
        self._streams: list[np.random.Generator] = []
        self.seed(range(num_envs))

    def seed(self, seeds: Sequence[int]) -> None:
        """Give each copy its own random stream; takes effect at its next reset."""
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{self.task}: {self.num_envs} copies need as many seeds, got {len(seeds)}")
        self._streams = [np.random.default_rng(int(seed)) for seed in seeds]

    def reset(self, ids: Ids | None = None) -> Observation:
        """Start new episodes in the copies ``ids`` (all when None)."""
        rows = self._all if ids is None else self._ids(ids)
        if len(rows):
            starts = [start_state(self.robot, self._sim.init_qpos, self._streams[i]) for i in rows]
            self._sim.set_state(rows, np.stack([q for q, _ in starts]), np.stack([v for _, v in starts]))
            self._time[rows] = 0
            self._observe(rows)
        return Observation(self._obs, self._state)

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        """Advance the copies ``ids`` by one step under ``action [E, N, A]``.

        Raises:
            ValueError: wrong shape, or an action of a stepped copy is not finite (the copies are named).
        """
        shape = (self.num_envs, self.spec.n_agents, self.spec.action_size)
        if action.shape != shape:
            raise ValueError(f"{self.task}: actions must have shape {shape}, got {action.shape}")
        rows: Ids | slice = slice(None) if ids is None else self._ids(ids)
        reward = np.zeros(self.num_envs, np.float32)
        terminal, truncated, unstable = np.zeros((3, self.num_envs), np.bool_)
        control = self._control(action[rows], self._all[rows])
        result = self._sim.step(control, None if ids is None else self._all[rows])
        self._time[rows] += 1
        reward[rows] = result.reward
        terminal[rows] = ~result.alive
        unstable[rows] = result.unstable
        truncated[rows] = result.alive & (self._time[rows] >= self.spec.horizon)
        self._observe(None if ids is None else self._all[rows])
        return Step(
            self._obs,
            self._state,
            reward=reward,
            terminal=terminal,
            truncated=truncated,
            info={"unstable": unstable},
        )

    def _ids(self, ids: Ids) -> Ids:
        """Copies as sorted indices, each once; a mask would silently mean copies 0 and 1."""
        rows = np.asarray(ids)
        if rows.size and (rows.dtype.kind not in "iu" or rows.ndim != 1):
            raise ValueError(
                f"{self.task}: ids must be a vector of copies' indices, got {rows.dtype} {rows.shape}"
            )
        return np.unique(rows.astype(np.intp))

    def _control(self, action: NDArray[Any], num_envs: Ids) -> Array:
        """Engine controls ``[n, nu]`` of policy actions ``[n, N, A]``."""
        flat = action.reshape(len(action), self.spec.n_agents * self.spec.action_size)[:, self._source]
        finite = np.isfinite(flat).all(axis=1)
        if not finite.all():
            bad = num_envs[~finite]
            shown = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
            raise ValueError(f"{self.task}: actions of copies {shown} are not finite")
        control = flat.astype(np.float64) * self.robot.control
        return np.clip(control, -self.robot.control, self.robot.control) if self._clip else control

    def _observe(self, ids: Ids | None) -> None:
        rows: Ids | slice = slice(None) if ids is None else ids
        raw = self._sim.observe(ids)
        self._obs[rows] = self._view.observe(raw, self._sim.fields(ids)["qvel"])
        if not self._view.joined:
            self._state[rows] = self._view.state(raw)

    def replay(self, obs: Floats, action: NDArray[Any]) -> Resimulation:
        """Simulate one step from recorded observations ``[B, N, O]``, actions ``[B, N, A]``.

        ``valid`` is False where the state cannot be recovered: a Hopper's or Walker2d's velocity at the bound
        10 of its observation, a row with NaN or infinity, a step that blows up. All other states are
        determined by their observation (the Humanoid's by its positions and velocities, the Reacher's by
        sines and cosines). The rewards of Ant and Humanoid use a position that lags behind the state and is
        not in the observation: they agree with the recording only in the median (Ant 4e-4, Humanoid 3e-5).

        Raises:
            SpecError: the observations do not determine the state, or the shapes are not the task's.
            MismatchError: observations that no state of the task gives.
        """
        if self._view.recover is None:
            raise SpecError(f"{self.task}: its observations do not determine the simulator's state")
        self._require_shapes(obs, (self.spec.n_agents, self.spec.obs_size), "observations", action)
        return self._replay(self._view.recover(obs), action)

    def replay_states(self, state: Floats, action: NDArray[Any]) -> Resimulation:
        """As :meth:`replay`, from states ``[B, S]`` that are the robot's whole observation.

        Raises:
            SpecError: the task's states do not determine the simulator's, or the shapes are not the task's.
            MismatchError: states that the simulator does not have.
        """
        if self._view.recover_state is None:
            return super().replay_states(state, action)
        self._require_shapes(state, (self.spec.state_size,), "states", action)
        return self._replay(self._view.recover_state(state), action)

    def _require_shapes(self, seen: Floats, shape: tuple[int, ...], what: str, action: NDArray[Any]) -> None:
        moves = (self.spec.n_agents, self.spec.action_size)
        if seen.shape[1:] != shape or action.shape != (len(seen), *moves):
            raise SpecError(
                f"{self.task}: replay needs {what} [B, {', '.join(map(str, shape))}] and actions "
                f"[B, {moves[0]}, {moves[1]}], got {list(seen.shape)} and {list(action.shape)}"
            )

    def _replay(self, raw: Array, action: NDArray[Any]) -> Resimulation:
        """Simulate one step from full observations ``[B, F]``."""
        if self._replayer is None:
            self._replayer = RobotSim(self.robot, REPLAY_COPIES, self.threads)
        finite = np.isfinite(action).all(axis=(1, 2))
        control = self._control(np.where(finite[:, None, None], action, 0.0), np.arange(len(raw)))
        result = replay_observations(self._replayer, raw, control)
        next_obs = self._view.observe(result.observation, result.velocity).astype(np.float32)
        reward = result.reward.astype(np.float32)
        return Resimulation(next_obs, reward, result.terminal, result.valid & finite)

    def render(self, index: int, width: int, height: int) -> NDArray[np.uint8]:
        """A picture of the robot of the copy ``index``, from the side, of Reacher from above; needs EGL or OSMesa.

        Raises:
            ConfigError: a picture larger than 640 x 480.
            MissingSimulatorError: neither EGL nor OSMesa works here.
        """
        if self._camera is None:
            self._camera = Camera(self._sim.model, width, height, table=self.robot.reaches)
        return self._camera.take(self._sim.fields()["qpos"][index])

    def close(self) -> None:
        """Free the simulations and their threads."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        self._sim.close()
        if self._replayer is not None:
            self._replayer.close()
