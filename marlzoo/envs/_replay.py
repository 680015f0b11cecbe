"""Recorded transitions, stepped again in the simulator.

The full observation is recovered from the recorded one (or the recorded state), and the engine's state from that;
what the observation leaves out is either fixed or does not matter: the root's x (and y) is set to zero, the
Reacher's target does not move. A velocity at the bound of a clipping observation (Hopper, Walker2d) is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlzoo.envs._mujoco_robots import CONTACT_SIZE, Array, Robot, rows_where
from marlzoo.envs._mujoco_sim import RobotSim
from marlzoo.envs.base import Bools
from marlzoo.errors import MismatchError

CLIP_MARGIN = 1e-4  # a float32 file recovers velocities to about 1e-6
CONTACT_LIMIT = 1e-3


@dataclass(slots=True)
class RobotReplay:
    """What one replayed step gave: full observation ``[B, O]``, velocity ``[B, nv]``, the rest ``[B]``."""

    observation: Array
    velocity: Array
    reward: Array
    terminal: Bools
    valid: Bools


def state_from_observation(robot: Robot, raw: Array) -> tuple[Array, Array, Bools]:
    """Position ``[B, nq]``, velocity ``[B, nv]`` and validity ``[B]`` of full observations ``[B, obs_size]``.

    Raises:
        MismatchError: contact forces (Ant, Humanoid) that ``-v2`` engines left at zero are not zero.
    """
    valid = rows_where(np.isfinite(raw))
    raw = np.where(valid[:, None], raw, 0.0)
    qpos = np.zeros((len(raw), robot.nq))
    qvel = np.zeros((len(raw), robot.nv))
    if robot.reaches:
        qpos[:, :2] = np.arctan2(raw[:, 2:4], raw[:, :2])
        qpos[:, 2:] = raw[:, 4:6]
        qvel[:, :2] = raw[:, 6:8]
        return qpos, qvel, valid
    shown = robot.nq - robot.hidden
    qpos[:, robot.hidden :] = raw[:, :shown]
    qvel[:] = raw[:, shown : shown + robot.nv]
    if robot.qvel_limit is not None:
        valid &= rows_where(np.abs(qvel) < robot.qvel_limit - CLIP_MARGIN)
    if robot.obs_size > CONTACT_SIZE and not robot.modern:
        contact = np.abs(raw[:, -CONTACT_SIZE:]).max(axis=1)
        if contact.max(initial=0.0) > CONTACT_LIMIT:
            row = int(contact.argmax())
            raise MismatchError(
                f"{robot.name}-v2 leaves the {CONTACT_SIZE} contact entries at zero, but row {row} holds "
                f"{contact[row]:.3g}: these data come from an engine that fills contact forces "
                "(an old mujoco-py engine below 2.0, or gymnasium's -v4/-v5 tasks)"
            )
    if robot.nq > robot.nv:
        norm = np.linalg.norm(qpos[:, 3:7], axis=1)
        valid &= np.abs(norm - 1) < 1e-2
        qpos[~valid, 3:7] = (1.0, 0.0, 0.0, 0.0)
    return qpos, qvel, valid


def replay_observations(sim: RobotSim, raw: Array, control: Array) -> RobotReplay:
    """Step once from full observations ``[B, obs_size]`` under controls ``[B, nu]``, in chunks of the copies.

    The Ant's and the Humanoid's reward uses a position that lags behind the state by part of a physics step;
    before the step it is taken without the lag. Their reward is therefore exact only where accelerations
    vary little within a step (nearly everywhere but at changes of contact).
    """
    robot = sim.robot
    count = len(raw)
    qpos, qvel, valid = state_from_observation(robot, raw)
    observation = np.zeros((count, robot.obs_size))
    velocity = np.zeros((count, robot.nv))
    reward = np.zeros(count)
    terminal = np.zeros(count, np.bool_)
    for start in range(0, count, sim.num_envs):
        part = slice(start, min(start + sim.num_envs, count))
        ids = np.arange(part.stop - start)
        sim.set_state(ids, qpos[part], qvel[part])
        # The Reacher shows the vector to its target as the last stepping call left it.
        before = np.linalg.norm(raw[part, -3:], axis=1) if robot.reaches and not robot.modern else None
        step = sim.step(control[part], ids, before)
        observation[part] = sim.observe(ids)
        velocity[part] = sim.fields(ids)["qvel"]
        reward[part] = step.reward
        terminal[part] = ~step.alive
        valid[part] &= ~step.unstable
    return RobotReplay(observation, velocity, reward, terminal, valid)
