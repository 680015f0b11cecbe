"""The robots of Gymnasium's ``-v5`` MuJoCo tasks, as far as they differ from those of ``-v2``.

Ant and Humanoid observe contact forces and pay for them; the torso's bonus is not paid for the step that ends an
episode; the Walker's feet have the same friction; the Reacher pays for the distance after the step, and its
observation leaves out the height of the vector to the target.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._mujoco_robots import BODY_COUNT, ROBOTS, Array, Fields, Robot, rows_where

BODIES = BODY_COUNT - 1  # observed ones: all but the world
ACT_FORCES = slice(6, None)  # forces of the actuated joints, without the free root


def _ant_forces(fields: Fields) -> Array:
    forces: Array = np.clip(fields["cfrc_ext"], -1.0, 1.0)
    return forces


def _ant_penalty(fields: Fields) -> Array:
    penalty: Array = 5e-4 * np.square(_ant_forces(fields)).sum(axis=(1, 2))
    return penalty


def _humanoid_penalty(fields: Fields) -> Array:
    penalty: Array = np.minimum(5e-7 * np.square(fields["cfrc_ext"]).sum(axis=(1, 2)), 10.0)
    return penalty


def _observe_ant(fields: Fields) -> Array:
    n = len(fields["qpos"])
    forces = _ant_forces(fields)[:, 1:].reshape(n, BODIES * 6)
    return np.concatenate([fields["qpos"][:, 2:], fields["qvel"], forces], axis=1)


def _observe_humanoid(fields: Fields) -> Array:
    n = len(fields["qpos"])
    parts = (
        fields["qpos"][:, 2:],
        fields["qvel"],
        fields["cinert"][:, 1:].reshape(n, BODIES * 10),
        fields["cvel"][:, 1:].reshape(n, BODIES * 6),
        fields["qfrc_actuator"][:, ACT_FORCES],
        fields["cfrc_ext"][:, 1:].reshape(n, BODIES * 6),
    )
    return np.concatenate(parts, axis=1)


def _observe_reacher(fields: Fields) -> Array:
    return ROBOTS["reacher"].observe(fields)[:, :-1]


def _humanoid_alive(fields: Fields) -> NDArray[np.bool_]:
    z = fields["qpos"][:, 2]
    return rows_where(np.stack([z > 1.0, z < 2.0], axis=1))


ROBOTS_V5: dict[str, Robot] = {
    "halfcheetah": replace(ROBOTS["halfcheetah"], modern=True),
    "hopper": replace(ROBOTS["hopper"], modern=True),
    "walker2d": replace(ROBOTS["walker2d"], modern=True, asset="walker2d_v5"),
    "ant": replace(
        ROBOTS["ant"], modern=True, obs_size=105, observe=_observe_ant, contact_penalty=_ant_penalty
    ),
    "humanoid": replace(
        ROBOTS["humanoid"],
        modern=True,
        obs_size=348,
        observe=_observe_humanoid,
        alive=_humanoid_alive,
        clip_cost=False,
        contact_penalty=_humanoid_penalty,
    ),
    # Its reward needs nothing from before the step.
    "reacher": replace(ROBOTS["reacher"], modern=True, obs_size=10, observe=_observe_reacher, lagging=False),
}
