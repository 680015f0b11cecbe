"""Family ``gmamujoco``: gymnasium-robotics' multi-agent MuJoCo on Gymnasium's ``-v5`` robots, without the package.

The scenarios and their names are those of OG-MARL's ``gymnasium_mamujoco`` datasets, for instance ``2halfcheetah``;
``2reacher`` and ``2humanoid`` have no data. Agents see joints up to the distance ``obsk`` and the root, raw and
unclipped, and may differ in size (:mod:`marlzoo.envs._gmamujoco_teams`); the state is the robot's whole observation.
Physics, rewards and ends of episodes are those of the ``-v5`` tasks (:mod:`marlzoo.envs._mujoco_v5`), E copies
stepped together: ``results/speed/gmamujoco.csv`` compares the speed with the package's. Robots, observations and
rewards are others than those of :mod:`marlzoo.envs.mamujoco`: scores of one family say nothing about the other.
"""

from __future__ import annotations

from typing import Any

from marlzoo.envs._gmamujoco_teams import TEAMS, JointTeam, seen_columns
from marlzoo.envs._mujoco_v5 import ROBOTS_V5
from marlzoo.envs._options import positive
from marlzoo.envs._views import LocalView
from marlzoo.envs.mamujoco import MAMuJoCo
from marlzoo.errors import ConfigError, UnknownNameError
from marlzoo.spec import Spec

FAMILY = "gmamujoco"
PRESET = "mamujoco"
TASKS: tuple[str, ...] = tuple(TEAMS)
OPTIONS = ("obsk", "threads", "horizon")
# Sizes of the state by which recordings of other versions of the robots are known.
STATES_ELSEWHERE: dict[str, dict[int, str]] = {
    "ant": {27: "Ant-v4 without contact forces", 111: "Ant-v2 to Ant-v4 with contact forces"},
    "humanoid": {376: "Humanoid-v2 to Humanoid-v4"},
    "reacher": {11: "Reacher-v2 to Reacher-v4"},
}


def spec(name: str, **options: Any) -> Spec:
    """Shape of the task ``name`` (without family), without starting a simulator.

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
    """
    team = _team(name)
    for option in options:
        if option not in OPTIONS:
            raise UnknownNameError(f"option of {FAMILY}/{name}", option, OPTIONS)
    sees = tuple(map(len, seen_columns(team, _distance(name, options))))
    moves = tuple(map(len, team.joints))
    return Spec(
        n_agents=len(sees),
        obs_size=max(sees),
        state_size=ROBOTS_V5[team.robot].obs_size,
        action_kind="continuous",
        action_size=max(moves),
        horizon=positive(
            f"{FAMILY}/{name}", "horizon", options.get("horizon", 50 if team.robot == "reacher" else 1000)
        ),
        obs_sizes=sees,
        action_sizes=moves,
    )


def make(name: str, num_envs: int, **options: Any) -> MAMuJoCo:
    """Make E copies of the task ``name`` (without family).

    Args:
        name: one of :data:`TASKS`.
        num_envs: number of copies E.
        options: ``obsk`` (joints up to this distance are seen, default 1), ``threads`` (worker threads; None: one per
            usable core), ``horizon`` (time limit in steps, default 1000; the Reacher's 50).

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
        MarlzooError: the simulator is missing or of the wrong version.
    """
    team = _team(name)
    shape = spec(name, **options)
    threads = options.get("threads")
    distance = _distance(name, options)
    return MAMuJoCo(
        f"{FAMILY}/{name}",
        ROBOTS_V5[team.robot],
        shape,
        positive(f"{FAMILY}/{name}", "num_envs", num_envs),
        None if threads is None else positive(f"{FAMILY}/{name}", "threads", threads),
        owners=team.owners(),
        view=LocalView(seen_columns(team, distance), ROBOTS_V5[team.robot], recoverable=True),
        properties={"flavor": "gymnasium-robotics", "obsk": distance},
        states_elsewhere=STATES_ELSEWHERE.get(team.robot),
    )


def _team(name: str) -> JointTeam:
    if name not in TEAMS:
        raise UnknownNameError(f"{FAMILY} task", name, TASKS)
    return TEAMS[name]


def _distance(name: str, options: dict[str, Any]) -> int:
    value = options.get("obsk", 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{FAMILY}/{name}: obsk must be an integer, 0 or more, got {value!r}")
    return value
