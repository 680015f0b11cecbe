"""The robots of Gym's ``-v2`` MuJoCo tasks as data: observation, reward, end of episode, start.

Those of Gymnasium's ``-v5`` tasks are described in the same terms, in :mod:`marlzoo.envs._mujoco_v5`.

Every function is vectorized over copies: it takes the engine's fields as ``[n, ...]`` float64 arrays.
``qpos`` and ``qvel`` are the state; all other fields are read as the stepping call left them, which with
the RK4 integrator is one stage behind the state, as in the original tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Fields = Mapping[str, Array]
BODY_COUNT = 14  # Ant, Humanoid
CONTACT_SIZE = BODY_COUNT * 6  # contact forces, which -v2 engines left at zero


@dataclass(frozen=True)
class Robot:
    """One robot and its task.

    Attributes:
        name: Gym's name without version, for instance ``HalfCheetah``.
        asset: file name of its XML in gymnasium, without suffix.
        frame_skip, timestep: physics steps per environment step; seconds per physics step.
        nq, nv, nu: sizes of position, velocity and control.
        obs_size: entries of the full observation.
        hidden: leading coordinates that the observation leaves out: the root's x, or x and y.
        observe: full observation ``[n, obs_size]``.
        measure: the quantity ``[n]`` that the reward uses before and after a step: the position in metres
            whose rate is rewarded (Reacher: the fingertip's distance to the target). Second argument: the
            bodies' masses in kg, ``[bodies]``.
        alive: whether the episode continues ``[n]``; None: it never ends but by time.
        control: controls lie in ``[-control, control]``.
        action_cost: factor of the squared norm of the control.
        forward, survive: factor of the speed; bonus per step, the last one included.
        reaches: reward is minus the distance before the step instead of a speed.
        clip_cost: the action cost sees the clipped control.
        qpos_noise, qvel_noise: half-width of the uniform start noise, or deviation if ``normal_qvel``.
        fields: engine fields beside qpos and qvel that are read.
        total_mass: mass in kg to which the model is scaled, if it is.
        qvel_limit: bound at which the observation clips velocities, if it does.
        lagging: whether ``measure`` reads a field that lags behind the state, so that its value before a
            recorded step cannot be computed from the recorded state.
        modern: a ``-v5`` task: the engine's own model; no bonus for the step that ends the episode; the Reacher
            pays for the distance after the step.
        contact_penalty: what contact forces cost ``[n]``, if they cost anything; the fields then hold ``cfrc_ext``.
    """

    name: str
    asset: str
    frame_skip: int
    timestep: float
    nq: int
    nv: int
    nu: int
    obs_size: int
    observe: Callable[[Fields], Array]
    measure: Callable[[Fields, Array], Array]
    alive: Callable[[Fields], NDArray[np.bool_]] | None
    action_cost: float
    qpos_noise: float
    qvel_noise: float
    normal_qvel: bool = False
    hidden: int = 1
    control: float = 1.0
    forward: float = 1.0
    survive: float = 0.0
    reaches: bool = False
    clip_cost: bool = False
    fields: tuple[str, ...] = ()
    total_mass: float | None = None
    qvel_limit: float | None = None
    lagging: bool = False
    modern: bool = False
    contact_penalty: Callable[[Fields], Array] | None = None

    @property
    def version(self) -> str:
        """``v2`` or ``v5``."""
        return "v5" if self.modern else "v2"

    @property
    def dt(self) -> float:
        """Seconds per environment step."""
        return self.timestep * self.frame_skip

    def reward(
        self, before: Array, after: Array, control: Array, alive: NDArray[np.bool_] | bool = True
    ) -> Array:
        """Reward ``[n]`` without contacts.

        Args:
            before, after: the quantity measured before and after the step, ``[n]``.
            control: as given, ``[n, nu]``.
            alive: whether the episode continues, ``[n]``.
        """
        if self.clip_cost:
            control = np.clip(control, -self.control, self.control)
        cost: Array = self.action_cost * np.square(control).sum(axis=1)
        if self.reaches:
            return -(after if self.modern else before) - cost
        bonus = self.survive * alive if self.modern else self.survive
        gain: Array = self.forward * (after - before) / self.dt + bonus
        return gain - cost


def rows_where(holds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows ``[n]`` of ``[n, k]`` that are True throughout."""
    return np.asarray(holds.all(axis=1), np.bool_)


def _root_x(fields: Fields, masses: Array) -> Array:
    return fields["qpos"][:, 0]


def _torso_x(fields: Fields, masses: Array) -> Array:
    return fields["xpos"][:, 1, 0]


def _center_of_mass_x(fields: Fields, masses: Array) -> Array:
    x: Array = fields["xipos"][:, :, 0] @ masses / masses.sum()
    return x


def _to_target(fields: Fields) -> Array:
    return fields["xpos"][:, 3] - fields["xpos"][:, 4]


def _target_distance(fields: Fields, masses: Array) -> Array:
    distance: Array = np.linalg.norm(_to_target(fields), axis=1)
    return distance


def _observe_planar(fields: Fields) -> Array:
    return np.concatenate([fields["qpos"][:, 1:], fields["qvel"]], axis=1)


def _observe_clipped(fields: Fields) -> Array:
    return np.concatenate([fields["qpos"][:, 1:], np.clip(fields["qvel"], -10, 10)], axis=1)


def _observe_swimmer(fields: Fields) -> Array:
    return np.concatenate([fields["qpos"][:, 2:], fields["qvel"]], axis=1)


def _observe_ant(fields: Fields) -> Array:
    contact = np.zeros((len(fields["qpos"]), CONTACT_SIZE))
    return np.concatenate([fields["qpos"][:, 2:], fields["qvel"], contact], axis=1)


def _observe_humanoid(fields: Fields) -> Array:
    n = len(fields["qpos"])
    parts = (
        fields["qpos"][:, 2:],
        fields["qvel"],
        fields["cinert"].reshape(n, BODY_COUNT * 10),  # -1 would not do for no copies at all
        fields["cvel"].reshape(n, BODY_COUNT * 6),
        fields["qfrc_actuator"],
        np.zeros((n, CONTACT_SIZE)),
    )
    return np.concatenate(parts, axis=1)


def _observe_reacher(fields: Fields) -> Array:
    angles = fields["qpos"][:, :2]
    parts = (np.cos(angles), np.sin(angles), fields["qpos"][:, 2:], fields["qvel"][:, :2], _to_target(fields))
    return np.concatenate(parts, axis=1)


def _hopper_alive(fields: Fields) -> NDArray[np.bool_]:
    qpos = fields["qpos"]
    qvel = fields["qvel"]
    # The root's height is left out of the bound, with its x; comparisons are False for NaN.
    bounded = rows_where(np.abs(np.concatenate([qpos[:, 2:], qvel], axis=1)) < 100)
    return bounded & rows_where(np.isfinite(qpos)) & (qpos[:, 1] > 0.7) & (np.abs(qpos[:, 2]) < 0.2)


def _walker_alive(fields: Fields) -> NDArray[np.bool_]:
    z = fields["qpos"][:, 1]
    angle = fields["qpos"][:, 2]
    return rows_where(np.stack([z > 0.8, z < 2.0, angle > -1.0, angle < 1.0], axis=1))


def _ant_alive(fields: Fields) -> NDArray[np.bool_]:
    qpos = fields["qpos"]
    qvel = fields["qvel"]
    finite = rows_where(np.isfinite(qpos)) & rows_where(np.isfinite(qvel))
    return finite & (qpos[:, 2] >= 0.2) & (qpos[:, 2] <= 1.0)


def _humanoid_alive(fields: Fields) -> NDArray[np.bool_]:
    z = fields["qpos"][:, 2]
    return rows_where(np.stack([z >= 1.0, z <= 2.0], axis=1))


ROBOTS: dict[str, Robot] = {
    "halfcheetah": Robot(
        "HalfCheetah",
        asset="half_cheetah",
        frame_skip=5,
        timestep=0.01,
        nq=9,
        nv=9,
        nu=6,
        obs_size=17,
        observe=_observe_planar,
        measure=_root_x,
        alive=None,
        action_cost=0.1,
        qpos_noise=0.1,
        qvel_noise=0.1,
        normal_qvel=True,
        total_mass=14.0,
    ),
    "hopper": Robot(
        "Hopper",
        asset="hopper",
        frame_skip=4,
        timestep=0.002,
        nq=6,
        nv=6,
        nu=3,
        obs_size=11,
        observe=_observe_clipped,
        measure=_root_x,
        alive=_hopper_alive,
        action_cost=1e-3,
        survive=1.0,
        qpos_noise=0.005,
        qvel_noise=0.005,
        qvel_limit=10.0,
    ),
    "walker2d": Robot(
        "Walker2d",
        asset="walker2d",
        frame_skip=4,
        timestep=0.002,
        nq=9,
        nv=9,
        nu=6,
        obs_size=17,
        observe=_observe_clipped,
        measure=_root_x,
        alive=_walker_alive,
        action_cost=1e-3,
        survive=1.0,
        qpos_noise=0.005,
        qvel_noise=0.005,
        qvel_limit=10.0,
    ),
    "ant": Robot(
        "Ant",
        asset="ant",
        frame_skip=5,
        timestep=0.01,
        nq=15,
        nv=14,
        nu=8,
        obs_size=111,
        observe=_observe_ant,
        hidden=2,
        measure=_torso_x,
        alive=_ant_alive,
        action_cost=0.5,
        survive=1.0,
        qpos_noise=0.1,
        qvel_noise=0.1,
        normal_qvel=True,
        fields=("xpos",),
        lagging=True,
    ),
    "humanoid": Robot(
        "Humanoid",
        asset="humanoid",
        frame_skip=5,
        timestep=0.003,
        nq=24,
        nv=23,
        nu=17,
        obs_size=376,
        observe=_observe_humanoid,
        hidden=2,
        measure=_center_of_mass_x,
        alive=_humanoid_alive,
        action_cost=0.1,
        forward=1.25,
        survive=5.0,
        control=0.4,
        clip_cost=True,  # the old engine clipped the stored control, from which the cost was computed
        qpos_noise=0.01,
        qvel_noise=0.01,
        fields=("xipos", "cinert", "cvel", "qfrc_actuator"),
        lagging=True,
    ),
    "reacher": Robot(
        "Reacher",
        asset="reacher",
        frame_skip=2,
        timestep=0.01,
        nq=4,
        nv=4,
        nu=2,
        obs_size=11,
        observe=_observe_reacher,
        hidden=0,
        measure=_target_distance,
        alive=None,
        action_cost=1.0,
        reaches=True,
        qpos_noise=0.1,
        qvel_noise=0.005,
        fields=("xpos",),
        lagging=True,
    ),
    "swimmer": Robot(
        "Swimmer",
        asset="swimmer",
        frame_skip=4,
        timestep=0.01,
        nq=5,
        nv=5,
        nu=2,
        obs_size=8,
        observe=_observe_swimmer,
        hidden=2,
        measure=_root_x,
        alive=None,
        action_cost=1e-4,
        qpos_noise=0.1,
        qvel_noise=0.1,
    ),
}


def start_state(robot: Robot, init_qpos: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw one start: position ``[nq]`` and velocity ``[nv]``, as the ``-v2`` task's ``reset_model``."""
    qpos = init_qpos + rng.uniform(-robot.qpos_noise, robot.qpos_noise, robot.nq)
    if robot.normal_qvel:
        qvel = robot.qvel_noise * rng.standard_normal(robot.nv)
    else:
        qvel = rng.uniform(-robot.qvel_noise, robot.qvel_noise, robot.nv)
    if robot.reaches:
        goal = rng.uniform(-0.2, 0.2, 2)
        while np.linalg.norm(goal) >= 0.2:
            goal = rng.uniform(-0.2, 0.2, 2)
        qpos[2:] = goal
        qvel[2:] = 0.0
    if robot.nq > robot.nv:  # a free root; old engines normalized its quaternion in place
        qpos[3:7] /= np.linalg.norm(qpos[3:7])
    return qpos, qvel
