"""Joints and observations of each agent in gymnasium-robotics' multi-agent MuJoCo (``mamujoco_v1``).

An agent sees, in this order: of each own joint, sorted by label, its angle and velocity (Ant and Humanoid also what
is known of the bodies it joins, each body once; the Reacher sine and cosine instead of the angle, and for the second
joint the vector from target to fingertip); of joints further away, up to the chosen distance, the angle; and the
root's coordinates and velocities (Reacher: the target). This differs from the older ``obsk`` observations of
:mod:`marlzoo.envs._local` in contacts, the root and the order of the Humanoid's abdomen.
"""

from __future__ import annotations

from dataclasses import dataclass

from marlzoo.envs._local import COORDINATES, JOINTS, joints_within
from marlzoo.envs._mujoco_robots import Robot
from marlzoo.envs._mujoco_v5 import BODIES, ROBOTS_V5
from marlzoo.envs._partitions import Owners

Joints = tuple[str, ...]


@dataclass(frozen=True)
class JointTeam:
    """A robot and the joints of each agent, in the order of its action's entries."""

    robot: str
    joints: tuple[Joints, ...]

    def owners(self) -> Owners:
        """Actuators of each agent."""
        order = JOINTS[self.robot]
        return tuple(tuple(order.index(joint) for joint in own) for own in self.joints)


def _legs(*numbers: int) -> Joints:
    return tuple(f"{joint}{leg}" for leg in numbers for joint in ("hip", "ankle"))


def _sides(*joints: str) -> Joints:
    return tuple(f"{side}_{joint}" for side in ("right", "left") for joint in joints)


_CHEETAH = JOINTS["halfcheetah"]
TEAMS: dict[str, JointTeam] = {
    "2halfcheetah": JointTeam("halfcheetah", (_CHEETAH[:3], _CHEETAH[3:])),
    "6halfcheetah": JointTeam("halfcheetah", tuple((joint,) for joint in _CHEETAH)),
    "2ant": JointTeam("ant", (_legs(1, 2), _legs(3, 4))),
    "4ant": JointTeam("ant", (_legs(1), _legs(2), _legs(3), _legs(4))),
    "3hopper": JointTeam("hopper", (("thigh",), ("leg",), ("foot",))),
    "2walker": JointTeam("walker2d", (("foot", "leg", "thigh"), ("foot_left", "leg_left", "thigh_left"))),
    "2reacher": JointTeam("reacher", (("joint0",), ("joint1",))),
    "2humanoid": JointTeam(
        "humanoid",
        (
            ("abdomen_x", "abdomen_y", "abdomen_z", *_sides("shoulder1", "shoulder2", "elbow")),
            _sides("hip_x", "hip_y", "hip_z", "knee"),
        ),
    ),
}

_TRUNK = 1
_HEAD_TO_HIP = (1, 2, 3)
_HUMANOID_BODIES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("abdomen_y", "abdomen_z"), _HEAD_TO_HIP),
    "abdomen_x": (3, 4, 7),
    **{f"right_hip_{axis}": (4, 5) for axis in "xyz"},
    "right_knee": (5, 6),
    **{f"left_hip_{axis}": (7, 8) for axis in "xyz"},
    "left_knee": (8, 9),
    **{f"right_shoulder{k}": (_TRUNK, 10, 11) for k in (1, 2)},
    "right_elbow": (11,),
    **{f"left_shoulder{k}": (_TRUNK, 12, 13) for k in (1, 2)},
    "left_elbow": (13,),
}


def _bodies(robot: str, joint: str) -> tuple[int, ...]:
    """Numbers of the bodies that a joint of Ant or Humanoid shows."""
    if robot == "humanoid":
        return _HUMANOID_BODIES[joint]
    leg = 3 * int(joint[-1]) - 1  # torso 1, then leg, shin and foot of each of the four
    return (_TRUNK, leg) if joint.startswith("hip") else (leg, leg + 1, leg + 2)


class _Columns:
    """Columns of ``[full observation, qvel, 0]``, from which every local entry is taken."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.robot = ROBOTS_V5[key]
        robot: Robot = self.robot
        self.zero = robot.obs_size + robot.nv
        self.angles = 4 if key == "reacher" else robot.nq - robot.hidden
        # The Walker's agents see velocities that its full observation clips; the Hopper's see them clipped.
        self.velocities = self.angles if key == "hopper" else robot.obs_size
        after = self.angles + robot.nv
        self.forces = after  # cfrc_ext of the bodies 1, 2, ...
        if key == "humanoid":
            self.inertias = after
            self.body_velocities = after + 10 * BODIES
            self.actuators = after + 16 * BODIES
            self.forces = self.actuators + robot.nu

    def _place(self, joint: str) -> int:
        """Position of a joint's coordinate counted from the last, negative."""
        if self.key == "reacher":
            return JOINTS["reacher"].index(joint) - self.robot.nq  # the target's two coordinates come last
        # The package takes the Humanoid's abdomen in the order of its actuators, not of its coordinates.
        order = COORDINATES["ant"] if self.key == "ant" else JOINTS[self.key]
        return order.index(joint) - len(order)

    def angle(self, joint: str) -> list[int]:
        if self.key == "reacher":
            arm = JOINTS["reacher"].index(joint)
            return [2 + arm, arm]  # sine, cosine; the full observation has both cosines first
        return [self.angles + self._place(joint)]

    def own(self, joints: list[str]) -> list[int]:
        """Everything about an agent's own joints."""
        columns: list[int] = []
        seen: set[int] = set()
        for joint in joints:
            place = self._place(joint)
            columns += [*self.angle(joint), self.velocities + self.robot.nv + place]
            if self.key in ("ant", "humanoid"):
                new = [body for body in _bodies(self.key, joint) if body not in seen]
                seen.update(new)
                columns += self._of_bodies(new, place)
            if joint == "joint1":
                columns += [self.robot.obs_size - 2, self.robot.obs_size - 1, self.zero]
        return columns

    def _of_bodies(self, bodies: list[int], place: int) -> list[int]:
        if self.key == "ant":
            return _blocks(self.forces, 6, bodies)
        return [
            *_blocks(self.inertias, 10, bodies),
            *_blocks(self.body_velocities, 6, bodies),
            self.actuators + self.robot.nu + place,
            *_blocks(self.forces, 6, bodies),
        ]

    def root(self) -> list[int]:
        """What everybody sees: the root's coordinates and velocities, or the target's place."""
        if self.key == "reacher":
            return [self.angles, self.angles + 1]
        joints = self.robot.nu
        shown = self.angles - joints
        moving = self.robot.nv - joints
        return [*range(shown), *range(self.velocities, self.velocities + moving)]


def _blocks(start: int, size: int, bodies: list[int]) -> list[int]:
    return [start + (body - 1) * size + k for body in bodies for k in range(size)]


def seen_columns(team: JointTeam, distance: int) -> list[list[int]]:
    """Columns of ``[full observation, qvel, 0]`` that each agent sees, unpadded."""
    columns = _Columns(team.robot)
    agents = []
    for own in team.joints:
        rings = joints_within(team.robot, own, distance)
        far = [column for ring in rings[1:] for joint in ring for column in columns.angle(joint)]
        agents.append([*columns.own(rings[0]), *far, *columns.root()])
    return agents
