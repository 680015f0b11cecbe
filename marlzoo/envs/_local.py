"""Local observations (``obsk``): an agent sees the joints up to distance K of its own.

Own joints give angle and velocity (Ant also the contact forces of the bodies they join, zeros in ``-v2``;
Humanoid also the actuator's force; Reacher sine and cosine instead of the angle, and for the second joint
the vector from target to fingertip), joints further away the angle only. Joints are sorted by label within
each distance. This is the observation of multiagent_mujoco without its optional global entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._mujoco_robots import CONTACT_SIZE, ROBOTS, Array, Robot
from marlzoo.envs._partitions import RobotTask

# Labels of the joints in the order of the actuators.
JOINTS: dict[str, tuple[str, ...]] = {
    "halfcheetah": ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
    "hopper": ("thigh", "leg", "foot"),
    "walker2d": ("thigh", "leg", "foot", "thigh_left", "leg_left", "foot_left"),
    "ant": ("hip4", "ankle4", "hip1", "ankle1", "hip2", "ankle2", "hip3", "ankle3"),
    "humanoid": (
        *("abdomen_y", "abdomen_z", "abdomen_x"),
        *("right_hip_x", "right_hip_z", "right_hip_y", "right_knee"),
        *("left_hip_x", "left_hip_z", "left_hip_y", "left_knee"),
        *("right_shoulder1", "right_shoulder2", "right_elbow"),
        *("left_shoulder1", "left_shoulder2", "left_elbow"),
    ),
    "reacher": ("joint0", "joint1"),
    "swimmer": ("rot2", "rot3"),
}
# Joints of the model in the order of their coordinates, where it is not the actuators' order.
COORDINATES: dict[str, tuple[str, ...]] = {
    "ant": ("hip1", "ankle1", "hip2", "ankle2", "hip3", "ankle3", "hip4", "ankle4"),
    "humanoid": ("abdomen_z", "abdomen_y", *JOINTS["humanoid"][2:]),
}
_HIPS = {side: (f"{side}_hip_x", f"{side}_hip_y", f"{side}_hip_z") for side in ("left", "right")}
_ABDOMEN = ("abdomen_x", "abdomen_y", "abdomen_z")
# Sets of mutually adjacent joints.
ADJACENT: dict[str, tuple[tuple[str, ...], ...]] = {
    "halfcheetah": (
        *(("bfoot", "bshin"), ("bshin", "bthigh"), ("bthigh", "fthigh")),
        *(("fthigh", "fshin"), ("fshin", "ffoot")),
    ),
    "hopper": (("foot", "leg"), ("leg", "thigh")),
    "walker2d": (
        *(("foot", "leg"), ("leg", "thigh"), ("foot_left", "leg_left"), ("leg_left", "thigh_left")),
        ("thigh", "thigh_left"),
    ),
    "ant": (*((f"ankle{i}", f"hip{i}") for i in range(1, 5)), ("hip1", "hip2", "hip3", "hip4")),
    "humanoid": tuple(
        joined
        for side in ("left", "right")
        for joined in (
            (f"{side}_knee", *_HIPS[side]),
            (*_ABDOMEN, *_HIPS[side]),
            (f"{side}_elbow", f"{side}_shoulder1", f"{side}_shoulder2"),
            (f"{side}_shoulder1", f"{side}_shoulder2", *_ABDOMEN),
        )
    ),
    "reacher": (("joint0", "joint1"),),
    "swimmer": (("rot2", "rot3"),),
}


def joints_within(robot: str, own: tuple[str, ...], distance: int) -> list[list[str]]:
    """Joints at distance 0, 1, .. ``distance`` of the joints ``own``, sorted by label."""
    rings = [sorted(own)]
    seen = set(own)
    for _ in range(distance):
        near = {j for joined in ADJACENT[robot] if not set(joined).isdisjoint(rings[-1]) for j in joined}
        rings.append(sorted(near - seen))
        seen |= near
    return rings


def _ant_bodies(joint: str) -> tuple[str, ...]:
    """Bodies whose contact forces a joint of the Ant shows: a hip torso and leg, an ankle the leg's three."""
    leg = joint[-1]
    return ("torso", f"leg{leg}") if joint.startswith("hip") else (f"leg{leg}", f"aux{leg}", f"foot{leg}")


@dataclass(frozen=True)
class _Columns:
    """Columns of ``[full observation, qvel, 0]``, from which every local entry is taken."""

    key: str
    robot: Robot

    @property
    def zero(self) -> int:
        return self.robot.obs_size + self.robot.nv

    def _place(self, joint: str) -> int:
        """Position of a joint's coordinate counted from the last, negative."""
        order = COORDINATES.get(self.key, JOINTS[self.key])
        if self.key == "reacher":  # the target's two coordinates come last
            return order.index(joint) - self.robot.nq
        return order.index(joint) - len(order)

    def angle(self, joint: str) -> list[int]:
        place = self._place(joint)
        if self.key == "reacher":
            arm = self.robot.nq + place
            return [2 + arm, arm]  # sine, cosine; the full observation has both cosines first
        return [self.robot.nq - self.robot.hidden + place]

    def own(self, joint: str) -> list[int]:
        robot = self.robot
        place = self._place(joint)
        columns = self.angle(joint)
        # The Hopper's joints show the clipped velocity of its full observation; the Walker's are not clipped.
        columns.append(robot.obs_size + place if self.key == "hopper" else self.zero + place)
        if self.key == "humanoid":
            columns.append(
                robot.obs_size - CONTACT_SIZE + place
            )  # actuator forces stand before the contact forces
        if joint == "joint1":
            columns.extend(range(robot.obs_size - 3, robot.obs_size))
        return columns


def local_columns(task: RobotTask) -> list[list[int]]:
    """Columns of ``[full observation, qvel, 0]`` that each agent of an ``obsk`` task sees, unpadded."""
    key = task.partition.robot
    owners = task.partition.scatter
    assert owners is not None
    assert task.distance is not None
    pool = _Columns(key, ROBOTS[key])
    agents = []
    for owned in owners:
        rings = joints_within(key, tuple(JOINTS[key][a] for a in owned), task.distance)
        columns = []
        bodies = set[str]()
        for joint in rings[0]:
            columns.extend(pool.own(joint))
            if key == "ant":
                new = set(_ant_bodies(joint)) - bodies
                columns.extend([pool.zero] * 6 * len(new))
                bodies |= new
        columns.extend(column for ring in rings[1:] for joint in ring for column in pool.angle(joint))
        agents.append(columns)
    return agents


def padded_columns(agents: Sequence[Sequence[int]], blank: int) -> NDArray[np.intp]:
    """Columns that agents see as one table ``[N, O]``, shorter rows padded with the column ``blank``."""
    table = np.full((len(agents), max(map(len, agents))), blank, np.intp)
    for row, columns in zip(table, agents, strict=True):
        row[: len(columns)] = columns
    return table


def local_observations(raw: Array, qvel: Array, columns: NDArray[np.intp]) -> Array:
    """Local observations ``[B, N, O]`` of full observations ``[B, F]`` and velocities ``[B, nv]``."""
    pool = np.concatenate([raw, qvel, np.zeros((len(raw), 1))], axis=1)
    return pool[:, columns]
