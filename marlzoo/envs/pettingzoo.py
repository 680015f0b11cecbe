"""Any environment with PettingZoo's parallel API as a task: :func:`from_parallel_env`.

Copies are separate objects stepped in turn, so this is as fast as the environment itself. What an environment may
have, and what becomes of it:

- observations: see :mod:`marlzoo.envs._spaces`: ``Box`` of any shape (flattened), ``Discrete`` (one-hot), or a
  ``Dict`` of such parts, of which ``action_mask`` is not seen; shorter ones are padded with zeros;
- actions: all ``Discrete``, or all ``Box`` with finite bounds, onto which [-1, 1] is mapped;
- legal actions: from ``observation["action_mask"]``, else ``info["action_mask"]``, else all;
- state: from ``state()`` where the environment has it, else all observations end to end;
- agents without a legal action (whose turn it is not): may only take action 0, which is passed on;
- agents that are gone: see zeros, earn 0 and, where actions are discrete, may only take action 0, which is not
  passed on.

An episode is over when no agent is left, or when every agent that is still listed is terminated or truncated. It
ended by the time limit if one of the last agents was truncated and not terminated, otherwise it is terminal. The
parallel API needs no package: any object with its methods will do; what breaks the API is refused by name
(:mod:`marlzoo.envs._parallel`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._parallel import Answer, Parallel
from marlzoo.envs._spaces import FlatSpace, Leaf, UnfitSpaceError, flat_space, plain_space
from marlzoo.envs.base import BatchedEnv, Bools, Floats, Ids, Observation, Step
from marlzoo.errors import ConfigError, MarlzooError, PluginError, SpecError, pip_install
from marlzoo.spec import READERS, Spec

Reward = Literal["per_agent", "mean", "sum"]
_REWARDS: tuple[Reward, ...] = ("per_agent", "mean", "sum")


class ParallelEnv(Protocol):
    """The part of PettingZoo's parallel API that is used."""

    possible_agents: list[Any]
    agents: list[Any]

    def observation_space(self, agent: Any) -> Any:
        """A gymnasium space."""

    def action_space(self, agent: Any) -> Any:
        """A gymnasium space."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Observations and infos by agent."""

    def step(self, actions: dict[Any, Any]) -> tuple[Any, Any, Any, Any, Any]:
        """Observations, rewards, terminations, truncations and infos by agent."""

    def close(self) -> None:
        """Free what it holds."""


def from_parallel_env(
    factory: Callable[[], Any],
    num_envs: int,
    *,
    task: str,
    horizon: int,
    reward: Reward = "per_agent",
    win_key: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> PettingZooEnv:
    """E copies of an environment with PettingZoo's parallel API.

    Args:
        factory: makes one environment.
        num_envs: number of copies E.
        task: full task name, ``family/name``.
        horizon: time limit in steps; give the environment's own, which is not part of the API. An episode that
            is longer is cut there.
        reward: ``per_agent``: each agent its own; ``mean`` or ``sum`` over agents: one team reward.
        win_key: entry of any agent's last info that says whether the episode was won; None: there is no winning.
        metadata: further properties that data and environment must share (plain values).

    Raises:
        ConfigError: an argument out of its range.
        SpecError: a space that is not covered, or an object without the parallel API.
        PluginError: a package that the environment needs is missing.
    """
    for name, value in (("num_envs", num_envs), ("horizon", horizon)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ConfigError(f"{task}: {name} must be a positive integer, got {value!r}")
    if reward not in _REWARDS:
        raise ConfigError(f"{task}: reward must be one of {', '.join(_REWARDS)}, got {reward!r}")
    try:
        envs = [factory() for _ in range(int(num_envs))]
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        remedy = f"install it: {pip_install(package)}" if package else "install what it needs"
        raise PluginError(f"{task}: the environment cannot be imported ({error}); {remedy}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, MarlzooError):
            raise
        raise SpecError(
            f"{task}: the environment cannot be made ({type(error).__name__}: {error})"
        ) from error
    if len({id(env) for env in envs}) < len(envs) and envs[0] is not None:
        raise SpecError(
            f"{task}: the factory returned one environment several times; let it make a new one each time"
        )
    return PettingZooEnv(envs, task, int(horizon), reward, win_key, dict(metadata or {}))


class PettingZooEnv(BatchedEnv):
    """E copies; made by :func:`from_parallel_env`.

    Copies start with the random streams of ``seed([0, 1, ...])``. The k-th episode of a stream is reset with a seed
    made from the stream's and k.
    """

    may_hang = False  # each copy's calls have a limit of their own

    def __init__(
        self,
        envs: Sequence[ParallelEnv],
        task: str,
        horizon: int,
        reward: Reward,
        win_key: str | None,
        metadata: dict[str, Any],
    ) -> None:
        self.task = task
        self.num_envs = len(envs)
        self.envs = list(envs)
        self.can_win = win_key is not None
        self._win_key = win_key
        self._reward = reward
        self._copies = [Parallel(env, task, number) for number, env in enumerate(envs)]
        first = self._copies[0]
        self.agents = first.agents
        for copy in self._copies[1:]:
            if copy.agents != self.agents:
                raise copy.fault(
                    f"has the agents {copy.agents}, the first copy {self.agents}", "the same in all"
                )
        self._views = [_view_of(first, agent) for agent in self.agents]
        self._acts = [_Act(task, first.space("action", agent)) for agent in self.agents]
        self.spec = self._make_spec(horizon)
        names = [str(agent) for agent in self.agents]
        known = {"engine": "pettingzoo", "reward": reward, "agents": names, **_version("pettingzoo")}
        self.metadata = {**known, **metadata}
        self._obs = np.zeros((self.num_envs, len(self.agents), self.spec.obs_size), np.float32)
        self._state = np.zeros((self.num_envs, self.spec.state_size), np.float32)
        self._masks = np.zeros((self.num_envs, len(self.agents), self.spec.action_size), np.bool_)
        self._time = np.zeros(self.num_envs, np.int64)
        self.seed(range(self.num_envs))
        self.reset()
        self.seed(range(self.num_envs))

    def _make_spec(self, horizon: int) -> Spec:
        kinds = {act.discrete for act in self._acts}
        if len(kinds) != 1:
            raise SpecError(f"{self.task}: some agents have discrete actions and some continuous ones")
        obs_sizes = tuple(view.size for view in self._views)
        action_sizes = tuple(act.size for act in self._acts)
        self._copies[0].reset(seed=0)
        state = self._copies[0].state()
        n = len(self.agents)
        return Spec(
            n_agents=n,
            obs_size=max(obs_sizes),
            state_size=n * max(obs_sizes) if state is None else max(state.size, 1),
            action_kind="discrete" if kinds.pop() else "continuous",
            action_size=max(action_sizes),
            horizon=horizon,
            obs_sizes=obs_sizes,
            action_sizes=action_sizes,
            reward_per_agent=self._reward == "per_agent",
        )

    def seed(self, seeds: Sequence[int]) -> None:  # noqa: D102
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{self.task}: {self.num_envs} copies need as many seeds, got {len(seeds)}")
        self._seeds = [int(seed) for seed in seeds]
        self._episode = [0] * self.num_envs

    def reset(self, ids: Ids | None = None) -> Observation:  # noqa: D102
        for copy in range(self.num_envs) if ids is None else np.unique(np.asarray(ids, np.intp)):
            mixed = np.random.SeedSequence([self._seeds[copy], self._episode[copy]]).generate_state(1)[0]
            answer = self._copies[copy].reset(seed=int(mixed) >> 1)
            self._episode[copy] += 1
            self._time[copy] = 0
            self._show(copy, answer)
        return self._shown(Observation)

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        """Advance the copies ``ids`` by one step.

        Raises:
            SpecError: wrong shape, or an action that is not legal or not finite; nothing has been stepped then.
        """
        spec = self.spec
        rows = np.arange(self.num_envs) if ids is None else np.unique(np.asarray(ids, np.intp))
        shape = (self.num_envs, spec.n_agents, *(() if spec.discrete else (spec.action_size,)))
        if action.shape != shape:
            raise SpecError(f"{self.task}: actions must have shape {shape}, got {action.shape}")
        self._refuse(action, rows)
        step = self._shown(Step)
        assert isinstance(step, Step)
        per_agent = (spec.n_agents,) if spec.reward_per_agent else ()
        step.reward = np.zeros((self.num_envs, *per_agent), np.float32)
        step.terminal, step.truncated = np.zeros((2, self.num_envs), np.bool_)
        if self.can_win:
            step.info["win"] = np.zeros(self.num_envs, np.bool_)
        for copy in rows:
            self._step_one(int(copy), action[copy], step)
        fresh = self._shown(Observation)
        step.obs = fresh.obs
        step.state = fresh.state
        step.action_mask = fresh.action_mask
        return step

    def _step_one(self, copy: int, action: NDArray[Any], step: Step) -> None:
        present = set(self._copies[copy].present())
        chosen = {
            agent: act.native(action[i])
            for i, (agent, act) in enumerate(zip(self.agents, self._acts, strict=True))
            if agent in present
        }
        answer = self._copies[copy].step(chosen)
        self._time[copy] += 1
        self._show(copy, answer)
        earned = np.array([answer.rewards.get(agent, 0.0) for agent in self.agents])
        step.reward[copy] = {"per_agent": earned, "mean": earned.mean(), "sum": earned.sum()}[self._reward]
        over = answer.over
        late = self._time[copy] >= self.spec.horizon
        step.terminal[copy] = over and not answer.cut
        step.truncated[copy] = (over and answer.cut) or (late and not step.terminal[copy])
        if self._win_key is not None and (over or late):
            infos = answer.infos.values()
            step.info["win"][copy] = any(bool((info or {}).get(self._win_key, False)) for info in infos)

    def _show(self, copy: int, answer: Answer) -> None:
        """Take what one copy shows."""
        foreign = self._copies[copy]
        present = set(foreign.present())
        self._obs[copy] = 0.0
        for i, (agent, seen) in enumerate(zip(self.agents, self._views, strict=True)):
            # An agent that has just gone is shown for the last time: its value may follow.
            if agent in answer.seen:
                self._obs[copy, i, : seen.size] = _flat(answer.seen[agent], seen, foreign, agent)
            if self.spec.discrete:
                action_mask = (
                    _mask(answer.seen.get(agent), answer.infos.get(agent)) if agent in present else 0
                )
                self._masks[copy, i] = self._acts[i].table(action_mask, self.spec.action_size, foreign, agent)
        state = foreign.state()
        if state is not None and state.size != self.spec.state_size:
            raise foreign.fault(
                f"returned a state of {state.size} entries, {self.spec.state_size} before",
                "the same number always",
            )
        self._state[copy] = self._obs[copy].ravel() if state is None else state

    def _shown(self, kind: type[Observation]) -> Observation:
        action_mask = self._masks.copy() if self.spec.discrete else None
        return kind(self._obs.copy(), self._state.copy(), action_mask)

    def _refuse(self, action: NDArray[Any], rows: Ids) -> None:
        taken = action[rows]
        if not self.spec.discrete:
            bad = ~np.isfinite(taken).all(axis=2)
            what = "is not finite"
        else:
            inside = (taken >= 0) & (taken < self.spec.action_size)
            action_mask: Bools = np.take_along_axis(
                self._masks[rows], np.where(inside, taken, 0)[..., None], -1
            )
            bad = ~(action_mask[..., 0] & inside)
            what = "is not legal there"
        if bad.any():
            k, agent = np.argwhere(bad)[0]
            raise SpecError(
                f"{self.task}: the action {taken[k, agent].tolist()} of agent {agent} in copy {rows[k]} {what}"
            )

    def canonical(self, actions: Mapping[Any, Any]) -> NDArray[Any]:
        """The environment's own actions by agent as ``[N]`` integers or ``[N, A]`` in [-1, 1]; 0 for the absent."""
        tail = () if self.spec.discrete else (self.spec.action_size,)
        out = np.zeros((len(self.agents), *tail), np.int64 if self.spec.discrete else np.float32)
        for i, (agent, act) in enumerate(zip(self.agents, self._acts, strict=True)):
            if agent in actions:
                out[(i, *(() if act.discrete else (slice(act.size),)))] = act.canonical(actions[agent])
        return out

    def close(self) -> None:
        """Close all copies."""
        for copy in self._copies:
            copy.close()


def _view_of(copy: Parallel, agent: Any) -> FlatSpace:
    space = copy.space("observation", agent)
    try:
        return flat_space(plain_space(space), f"the observation space of {agent!r}")
    except UnfitSpaceError as error:
        raise copy.fault(f"cannot be used: {error}; wrap the environment so that it has one") from error


def _flat(seen: Any, of: FlatSpace, copy: Parallel, agent: Any) -> Floats:
    """A vector ``[size]`` of what ``agent`` of a copy sees."""
    return np.concatenate([_part(seen, leaf, copy, agent) for leaf in of.leaves])


def _part(seen: Any, leaf: Leaf, copy: Parallel, agent: Any) -> Floats:
    name = "/".join(map(str, (f"observation of {agent!r}", *leaf.path)))
    for key in leaf.path:
        try:
            seen = seen[key]
        except (LookupError, TypeError) as error:
            raise copy.fault(f"returned no {name}", "every part of the agent's space") from error
    value = copy.vector(seen, name)
    if value.size != int(np.prod(leaf.shape)):
        raise copy.fault(
            f"returned {value.size} numbers as {name}", f"numbers of shape {leaf.shape}, as its space says"
        )
    try:
        return np.asarray(leaf.rows(value.reshape(1, *leaf.shape))[0], np.float32)
    except UnfitSpaceError as error:
        raise copy.fault(f"returned an {name} that {error}") from error


class _Act:
    """How one agent's actions are handed to the environment."""

    def __init__(self, task: str, space: Any) -> None:
        from gymnasium import spaces

        self.discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete):
            self.size = int(space.n)
            self._first = int(space.start)
            return
        if not isinstance(space, spaces.Box) or not (np.isfinite(space.low) & np.isfinite(space.high)).all():
            raise SpecError(
                f"{task}: actions in {space} are not covered; wrap the environment so that they are Discrete or a "
                "Box with finite bounds"
            )
        self.size = int(np.prod(space.shape))
        self._space = space

    def native(self, action: NDArray[Any]) -> Any:
        """The environment's action of an entry of ours."""
        if self.discrete:
            return int(action) + self._first
        low = self._space.low
        high = self._space.high
        share = (np.clip(action[: self.size].astype(np.float64), -1.0, 1.0).reshape(low.shape) + 1.0) / 2.0
        return np.clip(low + share * (high.astype(np.float64) - low), low, high).astype(self._space.dtype)

    def canonical(self, action: Any) -> Any:
        """Inverse of :meth:`native`."""
        if self.discrete:
            return int(action) - self._first
        low, high = (bound.astype(np.float64) for bound in (self._space.low, self._space.high))
        return (2.0 * (np.asarray(action, np.float64) - low) / (high - low) - 1.0).ravel()

    def table(self, mask: Any, width: int, copy: Parallel, agent: Any) -> Bools:
        """Legal actions ``[width]``: all if None, only the first if 0 or an empty mask, otherwise the mask's."""
        action_mask = np.zeros(width, np.bool_)
        if mask is None:
            action_mask[: self.size] = True
            return action_mask
        if not isinstance(mask, int):
            found = copy.vector(mask, f"action mask of {agent!r}")
            if found.size != self.size:
                raise copy.fault(
                    f"returned {found.size} entries as action mask of {agent!r}", f"{self.size} of them"
                )
            action_mask[: self.size] = found != 0
        action_mask[0] |= not action_mask.any()
        return action_mask


def _mask(seen: Any, info: Any) -> Any:
    """An agent's mask of legal actions, or None."""
    for place in (seen, info):
        if isinstance(place, Mapping) and place.get("action_mask") is not None:
            return place["action_mask"]
    return None


def _version(package: str) -> dict[str, str]:
    try:
        return {"engine_version": importlib.metadata.version(package)}
    except importlib.metadata.PackageNotFoundError:
        return {}


def spec_of(env: ParallelEnv, horizon: int) -> Spec:
    """The spec of an environment with the parallel API; see :meth:`marlzoo.Spec.from_env`."""
    return from_parallel_env(lambda: env, 1, task=type(env).__name__, horizon=horizon).spec


READERS.append(spec_of)
