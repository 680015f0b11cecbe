"""Teams that speak Gymnasium's API with tuples over agents, as environments with PettingZoo's parallel API.

RWARE and level-based foraging return observations and rewards of all agents in order, and one end for all. They say
``terminated`` at their own time limit as well; that limit is taken away when they are made, and
:func:`marlzoo.envs.pettingzoo.from_parallel_env` keeps the time.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._options import positive
from marlzoo.envs.pettingzoo import PettingZooEnv, from_parallel_env
from marlzoo.errors import ConfigError, MissingExtraError, UnknownNameError
from marlzoo.spec import Spec

State = Callable[[Any], NDArray[np.float32]]
REWARDS = ("sum", "mean", "per_agent")


class TupleTeam:
    """One such environment.

    Args:
        env: with ``Tuple`` spaces.
        state: the global state ``[S]`` of an environment; None: there is none.
    """

    def __init__(self, env: Any, state: State | None = None) -> None:
        self.env = env
        self.possible_agents = [f"agent_{k}" for k in range(len(env.observation_space))]
        self.agents = list(self.possible_agents)
        if state is not None:
            self.state = lambda: state(env)

    def observation_space(self, agent: str) -> Any:
        """The space of what an agent sees."""
        return self.env.observation_space[self.possible_agents.index(agent)]

    def action_space(self, agent: str) -> Any:
        """The space of an agent's actions."""
        return self.env.action_space[self.possible_agents.index(agent)]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Observations and infos by agent."""
        seen, _ = self.env.reset(seed=seed, options=options)
        return self._by_agent(seen), {}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        """Observations, rewards, terminations, truncations and infos by agent."""
        seen, rewards, over, cut, _ = self.env.step([actions[agent] for agent in self.possible_agents])
        ended, limited = (dict.fromkeys(self.possible_agents, bool(flag)) for flag in (over, cut))
        return self._by_agent(seen), self._by_agent(rewards), ended, limited, {}

    def close(self) -> None:
        """Free what it holds."""
        self.env.close()

    def _by_agent(self, values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self.possible_agents, values, strict=True))


def make_team(
    task: str,
    num_envs: int,
    build: Callable[[], Any],
    *,
    package: str,
    state: State | None = None,
    properties: dict[str, Any] | None = None,
    **options: Any,
) -> PettingZooEnv:
    """E copies of a team of an optional package.

    Args:
        task: full task name.
        num_envs: number of copies E.
        build: makes one environment, once the package is known to be there.
        package: its name, which is also its extra's.
        state: the global state ``[S]`` of one environment; None: the observations end to end.
        properties: the task's part of ``metadata``.
        options: of :func:`marlzoo.envs.pettingzoo.from_parallel_env`.

    Raises:
        MissingExtraError: the package is not installed.
        ConfigError: an argument out of its range.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, package, f"the task {task}") from error
    engine = {"engine": package, "engine_version": importlib.metadata.version(package)}
    return from_parallel_env(
        lambda: TupleTeam(build(), state),
        num_envs,
        task=task,
        metadata={**engine, **(properties or {})},
        **options,
    )


def team_spec(
    task: str,
    options: Mapping[str, Any],
    *,
    known: Sequence[str],
    horizon: int,
    n_agents: int,
    obs_size: int,
    state_size: int,
    action_size: int,
) -> Spec:
    """Shape of a task of such a family, without its package.

    Args:
        task: full task name.
        options: that the task is made with; ``reward`` and ``horizon`` are read here.
        known: names of the family's options.
        horizon: time limit in steps where none is given.
        n_agents: number of agents N.
        obs_size: of every agent's observation.
        state_size: of the global state.
        action_size: number of every agent's actions.

    Raises:
        UnknownNameError: an unknown option.
        ConfigError: an option out of its range.
    """
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of {task}", option, known)
    reward = options.get("reward", "sum")
    if reward not in REWARDS:
        raise ConfigError(f"{task}: reward must be one of {', '.join(REWARDS)}, got {reward!r}")
    limit = positive(task, "horizon", options.get("horizon", horizon))
    return Spec(
        n_agents=n_agents,
        obs_size=obs_size,
        state_size=state_size,
        action_kind="discrete",
        action_size=action_size,
        horizon=limit,
        reward_per_agent=reward == "per_agent",
    )
