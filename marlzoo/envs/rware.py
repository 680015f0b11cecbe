"""Family ``rware``: robots fetch requested shelves of a warehouse (Papoudakis et al. 2021, arXiv:2006.07869).

Needs the extra ``rware``; listing does not. Tasks are ``tiny-2ag`` to ``small-6ag``, those of AlberDICE's data. The
package steps one copy after another. Actions: 0 nothing, 1 forward, 2 left, 3 right, 4 lift or put down. Episodes end
after ``horizon`` steps (500) and never before. The state is AlberDICE's: place and direction of all agents, then the
places of the requested shelves. ``difficulty`` sets how many shelves are requested at a time: half as many as there
are agents (``hard``), as many (``normal``), or twice as many (``easy``, which the sizes of the states in AlberDICE's
published data fit).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._tuple_team import make_team, team_spec
from marlzoo.envs.pettingzoo import PettingZooEnv
from marlzoo.errors import ConfigError, UnknownNameError
from marlzoo.spec import Spec

FAMILY = "rware"
PRESET = "smac"  # methods need no settings of their own here
HORIZON = 500
OBS_SIZE = 71
ACTIONS = 5
TASKS: tuple[str, ...] = tuple(f"{size}-{agents}ag" for size in ("tiny", "small") for agents in (2, 4, 6))
REQUESTS = {"normal": 1.0, "easy": 2.0, "hard": 0.5}  # requested shelves per agent
OPTIONS = ("difficulty", "reward", "horizon")
ALTERNATIVES = {"difficulty": tuple(REQUESTS)}  # options that change the shape


def spec(name: str, **options: Any) -> Spec:
    """Shape of the task ``name`` (without family), without the package; options as in :func:`make`.

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
    """
    if name not in TASKS:
        raise UnknownNameError(f"{FAMILY} task", name, TASKS)
    agents = int(name.partition("-")[2].removesuffix("ag"))
    return team_spec(
        f"{FAMILY}/{name}",
        options,
        known=OPTIONS,
        horizon=HORIZON,
        n_agents=agents,
        obs_size=OBS_SIZE,
        state_size=3 * agents + 2 * _requests(name, agents, options.get("difficulty", "normal")),
        action_size=ACTIONS,
    )


def make(name: str, num_envs: int, **options: Any) -> PettingZooEnv:
    """Make E copies of the task ``name`` (without family).

    Args:
        name: one of :data:`TASKS`.
        num_envs: number of copies E.
        options: ``difficulty`` (``normal``, ``easy`` or ``hard``), ``reward`` (``sum`` of all agents' as the team's
            reward, ``mean``, or ``per_agent``), ``horizon`` (time limit in steps).

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
        MissingExtraError: rware is not installed.
    """
    shape = spec(name, **options)
    difficulty = options.get("difficulty", "normal")
    suffix = "" if difficulty == "normal" else f"-{difficulty}"

    def build() -> Any:
        import gymnasium

        made = gymnasium.make(f"rware-{name}{suffix}-v2", disable_env_checker=True, max_steps=None)
        return made.unwrapped

    return make_team(
        f"{FAMILY}/{name}",
        num_envs,
        build,
        package="rware",
        state=_state,
        horizon=shape.horizon,
        reward=options.get("reward", "sum"),
        properties={"difficulty": difficulty},
    )


def _state(warehouse: Any) -> NDArray[np.float32]:
    robots = [(robot.x, robot.y, robot.dir.value) for robot in warehouse.agents]
    shelves = [(shelf.x, shelf.y) for shelf in warehouse.request_queue]
    return np.array([value for place in (*robots, *shelves) for value in place], np.float32)


def _requests(name: str, agents: int, difficulty: object) -> int:
    """Number of shelves that are requested at a time."""
    if difficulty not in REQUESTS:
        raise ConfigError(
            f"{FAMILY}/{name}: difficulty must be one of {', '.join(REQUESTS)}, got {difficulty!r}"
        )
    return int(agents * REQUESTS[str(difficulty)])
