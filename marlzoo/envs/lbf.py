"""Family ``lbf``: level-based foraging (Albrecht and Ramamoorthy 2013; Papoudakis et al. 2021, arXiv:2006.07869).

Needs the extra ``lbforaging``; listing does not. Agents collect food whose level their own must reach together.
Names are the package's without ``Foraging-`` and version: field, players, food, ``coop`` where all players are needed
for each piece, ``2s`` in front where agents see two cells far. The package steps one copy after another. Actions: 0
nothing, 1 north, 2 south, 3 west, 4 east, 5 load; one that cannot be done does nothing. The episode is over when all
food is collected, which pays 1 in all, or after ``horizon`` steps (50).
"""

from __future__ import annotations

import re
from typing import Any

from marlzoo.envs._tuple_team import make_team, team_spec
from marlzoo.envs.pettingzoo import PettingZooEnv
from marlzoo.errors import UnknownNameError
from marlzoo.spec import Spec

FAMILY = "lbf"
PRESET = "smac"  # methods need no settings of their own here
HORIZON = 50
ACTIONS = 6
TASKS: tuple[str, ...] = (
    "8x8-2p-2f-coop",
    "2s-8x8-2p-2f-coop",
    "10x10-3p-3f",
    "2s-10x10-3p-3f",
    "15x15-3p-4f",
    "15x15-4p-3f",
)
OPTIONS = ("reward", "horizon")


def spec(name: str, **options: Any) -> Spec:
    """Shape of the task ``name`` (without family), without the package; options as in :func:`make`.

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
    """
    if name not in TASKS:
        raise UnknownNameError(f"{FAMILY} task", name, TASKS)
    players, food = map(int, re.findall(r"(\d+)[pf](?:-|$)", name))
    size = 3 * (players + food)
    return team_spec(
        f"{FAMILY}/{name}",
        options,
        known=OPTIONS,
        horizon=HORIZON,
        n_agents=players,
        obs_size=size,
        state_size=players * size,
        action_size=ACTIONS,
    )


def make(name: str, num_envs: int, **options: Any) -> PettingZooEnv:
    """Make E copies of the task ``name`` (without family).

    Args:
        name: one of :data:`TASKS`.
        num_envs: number of copies E.
        options: ``reward`` (``sum`` of all agents' as the team's reward, ``mean``, or ``per_agent``), ``horizon``
            (time limit in steps).

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
        MissingExtraError: lbforaging is not installed.
    """
    shape = spec(name, **options)

    def build() -> Any:
        import gymnasium
        from lbforaging.foraging import ForagingEnv

        known = gymnasium.spec(f"Foraging-{name}-v3").kwargs
        # One step more than is played, so that the package ends an episode only where the food is gone.
        return ForagingEnv(**known | {"max_episode_steps": shape.horizon + 1})

    return make_team(
        f"{FAMILY}/{name}",
        num_envs,
        build,
        package="lbforaging",
        horizon=shape.horizon,
        reward=options.get("reward", "sum"),
    )
