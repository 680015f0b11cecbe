"""Observations and actuators of each agent in MOMA-PPO's partitions of the D4RL robots and of Reacher.

A team is written ``<conf>_<obsk>``, for instance ``4x2_0t``; indices are columns of the robot's observation and
numbers of its actuators. The release takes the Ant's joints in observed order (front left leg first) and its
actuators in the robot's (back right leg first) for the same list: whoever sees the front left leg moves the back
right one. That is how its data were divided, so it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from marlzoo.errors import UnknownNameError

Indices = tuple[int, ...]


@dataclass(frozen=True)
class RobotColumns:
    """A single robot's sizes.

    Attributes:
        obs_size: columns of the observation that are used (the Ant's contact forces are left out).
        stored: columns in the published files.
        joints: column of the angle, column of the velocity and actuator of each joint, in observed order.
        confs: joints of each agent, by the partition's name.
        extras: observed columns besides the own joints, by ``obsk``.
        horizon: steps until the time limit.
    """

    obs_size: int
    stored: int
    joints: tuple[tuple[int, int, int], ...]
    confs: dict[str, tuple[Indices, ...]]
    extras: dict[str, Indices]
    horizon: int = 1000


@dataclass(frozen=True)
class RobotTeam:
    """What each agent sees (columns) and moves (actuators), with the robot they share."""

    robot: RobotColumns
    sees: tuple[Indices, ...]
    moves: tuple[Indices, ...]


def _joints(first_angle: int, first_velocity: int, actuators: Indices) -> tuple[tuple[int, int, int], ...]:
    return tuple((first_angle + k, first_velocity + k, actuator) for k, actuator in enumerate(actuators))


def _singles(count: int) -> tuple[Indices, ...]:
    return tuple((k,) for k in range(count))


_TORSO = (0, 1, 2, 3, 4, 16, 17, 18)
_VELOCITY = (13, 14, 15)
_OWN: dict[str, Indices] = {"0": ()}
ROBOTS: dict[str, RobotColumns] = {
    "halfcheetah": RobotColumns(
        17, 17, _joints(2, 11, tuple(range(6))), {"2x3": ((0, 1, 2), (3, 4, 5)), "6x1": _singles(6)}, _OWN
    ),
    "hopper": RobotColumns(11, 11, _joints(2, 8, (0, 1, 2)), {"3x1": _singles(3)}, _OWN),
    "walker2d": RobotColumns(
        17, 17, _joints(2, 11, tuple(range(6))), {"2x3": ((0, 1, 2), (3, 4, 5)), "6x1": _singles(6)}, _OWN
    ),
    "ant": RobotColumns(
        27,
        111,
        _joints(5, 19, tuple(range(8))),
        {
            "4x2": ((0, 1), (2, 3), (4, 5), (6, 7)),
            "t4x2": ((0, 1), (2, 3), (4, 5), (6, 7)),
            "2x4": ((0, 1, 2, 3), (4, 5, 6, 7)),
            "2x4d": ((0, 1, 6, 7), (4, 5, 2, 3)),
        },
        {
            **_OWN,
            "0t": (*_TORSO, *_VELOCITY),
            "0tnv": _TORSO,
            "0tv": _VELOCITY,
            "0txv": (13,),
            "0tyv": (14,),
            "0txyv": (13, 14),
        },
    ),
}
_TIP = (8, 9, 10)
_TARGET = (4, 5)
_BOTH = (0, 2, 6, 1, 3, 7)
_REACHER = RobotColumns(11, 11, (), {}, {}, horizon=50)
_REACHER_SEES: dict[str, tuple[Indices, Indices]] = {
    "2x1_full": (tuple(range(11)), tuple(range(11))),
    "2x1_0": ((0, 2, 6, *_TARGET, *_TIP), (1, 3, 7, *_TARGET, *_TIP)),
    "2x1notip_0": ((0, 2, 6, *_TARGET), (1, 3, 7, *_TARGET)),
    "2x1first_0": ((*_BOTH, *_TARGET), _BOTH),
    "2x1second_0": (_BOTH, (*_BOTH, *_TARGET)),
}


def team_names(robot: str) -> list[str]:
    """All teams ``<conf>_<obsk>`` of a robot.

    Raises:
        UnknownNameError: no such robot.
    """
    if robot == "reacher":
        return list(_REACHER_SEES)
    if robot not in ROBOTS:
        raise UnknownNameError("robot", robot, [*ROBOTS, "reacher"])
    found = ROBOTS[robot]
    return ["sa_full", *(f"{conf}_{obsk}" for conf in found.confs for obsk in ("full", *found.extras))]


def robot_team(robot: str, name: str) -> RobotTeam:
    """The team of this name on a robot.

    Raises:
        UnknownNameError: no such robot or team.
    """
    known = team_names(robot)
    if name not in known:
        raise UnknownNameError(f"team of the {robot}", name, known)
    if robot == "reacher":
        return RobotTeam(_REACHER, _REACHER_SEES[name], ((0,), (1,)))
    body = ROBOTS[robot]
    conf, obsk = name.rsplit("_", 1)
    everything = tuple(range(body.obs_size))
    if conf == "sa":
        return RobotTeam(body, (everything,), (tuple(range(len(body.joints))),))
    moves = tuple(tuple(body.joints[k][2] for k in own) for own in body.confs[conf])
    if obsk == "full":
        return RobotTeam(body, (everything,) * len(moves), moves)
    sees = []
    for agent, own in enumerate(body.confs[conf]):
        columns = [column for k in own for column in body.joints[k][:2]]
        torso = () if conf == "t4x2" and agent else body.extras[obsk]  # there only the first agent feels it
        sees.append((*columns, *torso))
    return RobotTeam(body, tuple(sees), moves)
