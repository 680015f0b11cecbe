"""One environment with PettingZoo's parallel API, with checks of everything it returns.

The API is a convention that nothing enforces. Whatever an environment returns instead becomes one
:class:`~marlzoo.errors.SpecError` that names the task, the environment's class, copy and step, what came and what the
API wants.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._time_limit import OverdueError, call_seconds, overdue, time_limit
from marlzoo.errors import MarlzooError, SpecError

_AEC = ("agent_selection", "agent_iter", "last")
_STEP = "observations, rewards, terminations, truncations and infos, each a dictionary by agent"


@dataclass(frozen=True)
class Answer:
    """What one step gave, by agent; ``over``: the episode has ended, ``cut``: by its time limit."""

    seen: Mapping[Any, Any]
    infos: Mapping[Any, Any]
    rewards: dict[Any, float]
    over: bool = False
    cut: bool = False


class Parallel:
    """One copy of a foreign environment.

    Args:
        env: the environment.
        task: full task name, for errors.
        number: of the copy, for errors.

    Raises:
        SpecError: it is no environment with the parallel API.
    """

    def __init__(self, env: Any, task: str, number: int) -> None:
        self.env = env
        self._task = task
        self._number = number
        self._time: int | None = None
        self._seconds = call_seconds()
        self._require_api()
        self.agents = self._names("possible_agents")
        if not self.agents:
            raise self.fault("lists no agent in possible_agents", "the names of all agents there")

    def fault(self, what: str, wanted: str = "") -> SpecError:
        """An error that states where the environment deviates from the API, and what the API requires."""
        time = ""
        if self._time is not None:
            time = f", step {self._time}" if self._time else ", reset"
        place = f"{self._task} ({type(self.env).__name__}, copy {self._number}{time})"
        return SpecError(f"{place}: it {what}" + (f"; the parallel API wants {wanted}" if wanted else ""))

    def space(self, kind: Literal["observation", "action"], agent: Any) -> Any:
        """An agent's gymnasium space."""
        from gymnasium import spaces

        name = f"{kind}_space"
        if not callable(getattr(self.env, name, None)):
            raise self.fault(f"has no method {name}", f"{name}(agent), which returns that agent's space")
        found = self._call(name, agent)
        if not isinstance(found, spaces.Space):
            raise self.fault(f"returned {_kind(found)} from {name}({agent!r})", "a space of gymnasium")
        return found

    def reset(self, seed: int) -> Answer:
        """Start an episode."""
        self._time = 0
        found = self._call("reset", seed=seed)
        if not isinstance(found, tuple) or len(found) != 2:
            raise self.fault(f"returned {_kind(found)} from reset", "the pair (observations, infos)")
        seen, infos = (
            self._by_agent(part, name) for part, name in zip(found, ("observations", "infos"), strict=True)
        )
        self._require_observations(seen)
        return Answer(seen, infos, {})

    def step(self, actions: dict[Any, Any]) -> Answer:
        """Advance by one step; an episode is over when nobody is left, or nobody who has not ended."""
        assert self._time is not None
        self._time += 1
        acting = self.present()
        found = self._call("step", actions)
        if not isinstance(found, tuple) or len(found) != 5:
            raise self.fault(f"returned {_kind(found)} from step", _STEP)
        names = ("observations", "rewards", "terminations", "truncations", "infos")
        seen, rewards, terminations, truncations, infos = (
            self._by_agent(part, name) for part, name in zip(found, names, strict=True)
        )
        self._require_observations(seen)
        ended = {a for a in acting if self._flag(terminations, a, "terminations")}
        late = {a for a in acting if self._flag(truncations, a, "truncations")} - ended
        return Answer(
            seen,
            infos,
            {agent: self._reward(rewards, agent) for agent in acting},
            over=set(self.present()) <= ended | late,
            cut=bool(late),
        )

    def present(self) -> list[Any]:
        """Agents that are there now."""
        found = self._names("agents")
        strangers = [agent for agent in found if agent not in self.agents]
        if strangers:
            raise self.fault(
                f"lists the agent {strangers[0]!r}, which possible_agents lacks", "all of them there"
            )
        return found

    def state(self) -> NDArray[np.float32] | None:
        """The global state as a vector, or None where the environment has none."""
        method = getattr(self.env, "state", None)
        if method is None:
            return None
        if not callable(method):
            raise self.fault(f"has {_kind(method)} as state", "a method state()")
        try:
            found = method()
        except (
            NotImplementedError,
            AttributeError,
        ):  # the API's way, and some wrappers', of saying that there is none
            return None
        except (Exception, SystemExit) as error:
            raise self._failed("state", error) from error
        return self.vector(found, "state")

    def vector(self, value: Any, name: str) -> NDArray[np.float32]:
        """Numbers of any shape as one vector."""
        try:
            array = np.asarray(value)
            if array.dtype.kind in "fiub":
                return array.astype(np.float32).ravel()
        except ValueError:  # lists of different lengths
            pass
        raise self.fault(f"returned {_kind(value)} as {name}", "an array of numbers")

    def close(self) -> None:
        """Free what the environment holds."""
        if hasattr(self.env, "close"):
            self._call("close")

    # ---- what is checked ---------------------------------------------------------------------------------

    def _require_api(self) -> None:
        wanted = (
            "an object with possible_agents, reset(seed), step(actions), observation_space and action_space"
        )
        if all(hasattr(self.env, name) for name in _AEC):
            raise self.fault(
                "is an environment of the AEC API, whose agents act in turns; wrap it in "
                "pettingzoo.utils.turn_based_aec_to_parallel or aec_to_parallel"
            )
        if not hasattr(self.env, "possible_agents"):
            single = hasattr(self.env, "observation_space") and hasattr(self.env, "action_space")
            what = "is an environment of a single agent" if single else "is no environment"
            raise self.fault(what, wanted)
        for name in ("reset", "step"):
            if not callable(getattr(self.env, name, None)):
                raise self.fault(f"has no method {name}", wanted)

    def _names(self, attribute: str) -> list[Any]:
        found: Any = getattr(self.env, attribute, None)
        named = isinstance(found, list | tuple) and all(isinstance(name, Hashable) for name in found)
        if not named or len(set(found)) < len(found):
            raise self.fault(f"has {_kind(found)} as {attribute}", "a list of different names")
        return list(found)

    def _by_agent(self, found: Any, name: str) -> Mapping[Any, Any]:
        if not isinstance(found, Mapping):
            raise self.fault(f"returned {_kind(found)} as {name}", "a dictionary by agent")
        return found

    def _require_observations(self, seen: Mapping[Any, Any]) -> None:
        for agent in self.present():
            if agent not in seen:
                raise self.fault(
                    f"returned no observation of the agent {agent!r}", "one of every agent that is there"
                )
        for agent in seen:
            if agent not in self.agents:
                raise self.fault(
                    f"returned an observation of {agent!r}, which possible_agents lacks", "all of them there"
                )

    def _flag(self, found: Mapping[Any, Any], agent: Any, name: str) -> bool:
        flag = np.asarray(found.get(agent, False))
        if flag.size != 1 or flag.dtype.kind not in "biu":
            raise self.fault(f"returned {_kind(found[agent])} in {name} of {agent!r}", "True or False")
        return bool(flag.reshape(())[()])

    def _reward(self, found: Mapping[Any, Any], agent: Any) -> float:
        if agent not in found:
            raise self.fault(f"returned no reward of the agent {agent!r}", "one of every agent that acted")
        reward = self.vector(found[agent], f"reward of {agent!r}")
        if reward.size != 1:
            raise self.fault(f"returned {_kind(found[agent])} as reward of {agent!r}", "one number")
        return float(np.asarray(found[agent], np.float64).reshape(()))

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        method: Callable[..., Any] = getattr(self.env, name)
        try:
            with time_limit(self._seconds, lambda: str(self._overdue(name))):
                return method(*arguments, **named)
        except OverdueError:
            raise self._overdue(name) from None
        except (Exception, SystemExit) as error:
            if isinstance(error, MarlzooError):
                raise
            raise self._failed(name, error) from error

    def _overdue(self, name: str) -> SpecError:
        return self.fault(overdue(name, self._seconds))

    def _failed(self, name: str, error: BaseException) -> SpecError:
        cause = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:200]
        wanted = "reset(seed=..., options=...)" if name == "reset" and isinstance(error, TypeError) else ""
        return self.fault(f"failed in {name} ({cause})", wanted)


def _kind(value: Any) -> str:
    """What a value is, in a few words."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and type {value.dtype}"
    if isinstance(value, tuple | list | dict):
        return f"a {type(value).__name__} of {len(value)} entries"
    return f"a value of type {type(value).__name__}"
