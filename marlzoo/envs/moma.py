"""Family ``moma``: MOMA-PPO's teams on the ``-v2`` robots and the two-agent Reacher.

Tasks are ``<robot>-<conf>_<obsk>``, for instance ``ant-4x2_0t`` or ``reacher-2x1first_0`` (leader-only: only the
agent of the shoulder sees the target). Agents see columns of the robot's raw observation and may differ in size;
the state is the whole observation (the Ant's first 27 columns). Who sees and moves what stands in
:mod:`marlzoo.envs._moma_teams`, by which D4RL's and MOMA-PPO's files are read. Physics and rewards are those
of :mod:`marlzoo.envs.mamujoco`; actions are clipped to the box before they are paid for. The Reacher's episodes have
50 steps, those of the others 1000.
"""

from __future__ import annotations

from typing import Any

from marlzoo.envs._moma_teams import RobotTeam, robot_team, team_names
from marlzoo.envs._mujoco_robots import ROBOTS
from marlzoo.envs._options import positive
from marlzoo.envs._views import Selected
from marlzoo.envs.mamujoco import MAMuJoCo
from marlzoo.errors import UnknownNameError
from marlzoo.spec import Spec

FAMILY = "moma"
PRESET = "mamujoco"
TASKS: tuple[str, ...] = tuple(
    f"{robot}-{team}"
    for robot in ("reacher", "ant", "halfcheetah", "hopper", "walker2d")
    for team in team_names(robot)
    if team != "sa_full"  # a single agent
)
OPTIONS = ("threads", "horizon")
# Mean returns of random actions and of the reference expert. Reacher: MOMA-PPO's release; the others: D4RL.
REFERENCES: dict[str, tuple[float, float]] = {
    "reacher": (-11.144625, -4.2370844),
    "ant": (-325.6, 3879.7),
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
}


def score(name: str, value: float) -> float:
    """Normalized score of a mean return: 0 for random actions, 1 for the expert.

    Args:
        name: of the task, without family.
        value: mean undiscounted return.

    Raises:
        UnknownNameError: an unknown task.
    """
    low, high = REFERENCES[_robot(name)[0]]
    return (value - low) / (high - low)


def spec(name: str, **options: Any) -> Spec:
    """Shape of the task ``name`` (without family), without starting a simulator.

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
    """
    _, team = _robot(name)
    for option in options:
        if option not in OPTIONS:
            raise UnknownNameError(f"option of {FAMILY}/{name}", option, OPTIONS)
    sees = tuple(map(len, team.sees))
    moves = tuple(map(len, team.moves))
    return Spec(
        n_agents=len(sees),
        obs_size=max(sees),
        state_size=team.robot.obs_size,
        action_kind="continuous",
        action_size=max(moves),
        horizon=positive(f"{FAMILY}/{name}", "horizon", options.get("horizon", team.robot.horizon)),
        obs_sizes=sees,
        action_sizes=moves,
    )


def make(name: str, num_envs: int, **options: Any) -> MAMuJoCo:
    """Make E copies of the task ``name`` (without family).

    Args:
        name: one of :data:`TASKS`.
        num_envs: number of copies E.
        options: ``threads`` (worker threads; None: one per usable core), ``horizon`` (time limit in steps).

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
        MarlzooError: the simulator is missing or of the wrong version.
    """
    robot, team = _robot(name)
    shape = spec(name, **options)
    threads = options.get("threads")
    return MAMuJoCo(
        f"{FAMILY}/{name}",
        ROBOTS[robot],
        shape,
        positive(f"{FAMILY}/{name}", "num_envs", num_envs),
        None if threads is None else positive(f"{FAMILY}/{name}", "threads", threads),
        owners=team.moves,
        view=Selected(ROBOTS[robot], team.sees, team.robot.obs_size),
        properties={"team": name.removeprefix(f"{robot}-"), "flavor": "moma"},
        clip=True,
    )


def _robot(name: str) -> tuple[str, RobotTeam]:
    if name not in TASKS:
        raise UnknownNameError(f"{FAMILY} task", name, TASKS)
    robot, _, team = name.partition("-")
    return robot, robot_team(robot, team)
