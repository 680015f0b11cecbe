"""Family ``mpe``: the particle world in OMAR's flavor, E copies stepped together.

``spread``: three agents cover three landmarks; ``tag`` and ``world``: three predators hunt a prey that the
environment moves. Physics, rewards and observations are those of OMAR's code (see
:mod:`marlzoo.envs._particle_world`), on which its data and those of CFCQL and OG-MARL were recorded; later
packages of these games differ in all three. Episodes have 25 steps and never end earlier. The state is all
learners' observations end to end. Spread pays each agent its own reward; a score is the mean over agents, summed
over the episode. The predators share one reward.

The prey of ``tag`` and ``world`` is a network that was published with OMAR's data only: give its file by
``prey=PATH``, or put it at ``$MARLZOO_HOME/prey/simple_tag.pt`` (``simple_world.pt``; also ``.npz``). Without it
there are ``tag-substitute-prey`` and ``world-substitute-prey``, whose prey follows a rule (see
:class:`marlzoo.envs._prey.SubstitutePrey`): other tasks, whose scores cannot be compared with published ones.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._options import positive
from marlzoo.envs._particle_world import SPREAD, TAG, WORLD, Array, Scenario, World
from marlzoo.envs._prey import Prey, SubstitutePrey, read_prey
from marlzoo.envs._streams import uniforms
from marlzoo.envs.base import BatchedEnv, Floats, Ids, Observation, Resimulation, Step
from marlzoo.errors import ConfigError, DataError, MismatchError, SpecError, UnknownNameError
from marlzoo.spec import Spec
from marlzoo.system.machine import home

FAMILY = "mpe"
VERSION = 1  # of the rules; data and environment must share it
HORIZON = 25
SUBSTITUTE = "-substitute-prey"
SCENARIOS: dict[str, Scenario] = {
    "spread": SPREAD,
    f"tag{SUBSTITUTE}": TAG,
    f"world{SUBSTITUTE}": WORLD,
    "tag": TAG,
    "world": WORLD,
}
TASKS: tuple[str, ...] = tuple(SCENARIOS)


def spec(name: str, **options: Any) -> Spec:
    """The shape of the task ``name`` (without family); options as in :func:`make`.

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
    """
    scenario, horizon = _scenario(name, options)
    size = scenario.obs_sizes[0]
    return Spec(
        n_agents=scenario.learners,
        obs_size=size,
        state_size=scenario.learners * size,
        action_kind="continuous",
        action_size=2,
        horizon=horizon,
        reward_per_agent=not scenario.prey,
    )


def make(name: str, num_envs: int, **options: Any) -> ParticleWorld:
    """E copies of the task ``name`` (without family).

    Args:
        name: one of :data:`TASKS`.
        num_envs: number of copies E.
        options: ``horizon`` (time limit in steps, 25); ``prey`` (the trained prey's file, ``tag`` and ``world``
            only; see :func:`marlzoo.envs._prey.read_prey`).

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
        DataError: the prey's file is missing or not a prey's.
    """
    scenario, _ = _scenario(name, options)
    if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise ConfigError(f"{FAMILY}/{name}: num_envs is {num_envs!r}; it must be a positive integer")
    return ParticleWorld(
        name, scenario, spec(name, **options), int(num_envs), _prey(name, scenario, options.get("prey"))
    )


def _scenario(name: str, options: dict[str, Any]) -> tuple[Scenario, int]:
    if name not in SCENARIOS:
        raise UnknownNameError(f"{FAMILY} task", name, TASKS)
    known = ("horizon", "prey") if name in ("tag", "world") else ("horizon",)
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of {FAMILY}/{name}", option, known)
    return SCENARIOS[name], positive(f"{FAMILY}/{name}", "horizon", options.get("horizon", HORIZON))


def _prey(name: str, scenario: Scenario, path: str | os.PathLike[str] | None) -> Prey | None:
    if not scenario.prey:
        return None
    if name.endswith(SUBSTITUTE):
        return SubstitutePrey()
    if path is None:
        places = [home() / "prey" / f"{scenario.name}{suffix}" for suffix in (".pt", ".npz")]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise DataError(
                f"{FAMILY}/{name} needs the trained prey that ships with OMAR's data (pretrained_adv_model.pt in "
                f"its folder {scenario.name}): give its path by the option prey, or copy it to {places[0]}. "
                f"Without it there is {FAMILY}/{name}{SUBSTITUTE}, whose scores compare with no published ones"
            )
    return read_prey(path, scenario.obs_sizes[-1])


class ParticleWorld(BatchedEnv):
    """E copies of one scenario; made by :func:`make`.

    Copies start with the random streams of ``seed([0, 1, ...])``. The k-th episode of a stream is decided by
    seed, k and actions alone. With a prey, ``info["prey_reward"] [E]`` is its reward (0 where not stepped).
    """

    replayable = True
    may_hang = False

    def __init__(self, name: str, scenario: Scenario, shape: Spec, num_envs: int, prey: Prey | None) -> None:
        self.task = f"{FAMILY}/{name}"
        self.scenario = scenario
        self.spec = shape
        self.num_envs = num_envs
        self.metadata = {"engine": "marlzoo particle world", "rules_version": VERSION, "flavor": "omar"}
        if prey is not None:
            self.metadata["prey"] = prey.identity
        self.prey = prey
        self.world = World(scenario, num_envs)
        self._time = np.zeros(num_envs, np.int64)
        self._obs: Floats = np.zeros((num_envs, shape.n_agents, shape.obs_size), np.float32)
        self._state: Floats = self._obs.reshape(num_envs, -1)
        self._prey_obs: Array = np.zeros((scenario.obs_sizes[-1], num_envs))
        self._all: Ids = np.arange(num_envs)
        self.seed(range(num_envs))

    def seed(self, seeds: Sequence[int]) -> None:  # noqa: D102
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{self.task}: {self.num_envs} copies need as many seeds, got {len(seeds)}")
        self._seeds = np.array([int(s) % 2**64 for s in seeds], np.uint64)
        self._episode = np.zeros(self.num_envs, np.uint64)

    def reset(self, ids: Ids | None = None) -> Observation:  # noqa: D102
        rows = self._rows(ids)
        if rows is None or len(rows):
            which: Any = slice(None) if rows is None else rows
            part = self.world if rows is None else self.world.take(rows)
            part.start(uniforms(self._seeds[which], self._episode[which], 2 * len(part.position)))
            self._episode[which] += np.uint64(1)
            self._time[which] = 0
            self._shown(part, rows)
        return Observation(self._obs, self._state)

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        """Advance the copies ``ids`` by one step under ``action [E, N, 2]``, clipped to the box.

        Raises:
            SpecError: wrong shape, or an action of a stepped copy is not finite (the copies are named).
        """
        shape = (self.num_envs, self.spec.n_agents, self.spec.action_size)
        if action.shape != shape:
            raise SpecError(f"{self.task}: actions must have shape {shape}, got {action.shape}")
        rows = self._rows(ids)
        per_agent = (self.spec.n_agents,) if self.spec.reward_per_agent else ()
        result = Step(
            self._obs,
            self._state,
            reward=np.zeros((self.num_envs, *per_agent), np.float32),
            terminal=np.zeros(self.num_envs, np.bool_),
            truncated=np.zeros(self.num_envs, np.bool_),
            info={} if self.prey is None else {"prey_reward": np.zeros(self.num_envs, np.float32)},
        )
        if rows is None or len(rows):
            which: Any = slice(None) if rows is None else rows
            part = self.world if rows is None else self.world.take(rows)
            earned = self._move(part, action[which], self._prey_obs[:, which], self._all[which])
            self._time[which] += 1
            result.reward[which] = earned.T if per_agent else earned[0]
            result.truncated[which] = self._time[which] >= self.spec.horizon
            if self.prey is not None:
                result.info["prey_reward"][which] = part.prey_reward()
            self._shown(part, rows)
        return result

    def render(self, index: int, width: int, height: int) -> NDArray[np.uint8]:
        """A picture of the world of the copy ``index``: colored agents, a dark prey, gray landmarks."""
        from marlzoo.envs._drawing import particle_world

        return particle_world(self.scenario, self.world.position[..., index], width, height)

    def _rows(self, ids: Ids | None) -> Ids | None:
        """Copies as sorted indices, each once; None: all. A mask would silently mean copies 0 and 1."""
        if ids is None:
            return None
        rows = np.asarray(ids)
        if rows.size and (rows.dtype.kind not in "iu" or rows.ndim != 1):
            raise SpecError(
                f"{self.task}: ids must be a vector of copies' indices, got {rows.dtype} {rows.shape}"
            )
        rows = np.unique(rows.astype(np.intp))
        return None if np.array_equal(rows, self._all) else rows

    def _move(self, world: World, action: NDArray[Any], prey_obs: Array, num_envs: Ids) -> Array:
        """Step a world under the learners' actions ``[B, N, 2]``; the learners' reward ``[N or 1, B]``."""
        force = np.empty((self.scenario.agents, 2, len(action)))
        force[: self.scenario.learners] = action.transpose(1, 2, 0)
        if not np.isfinite(force[: self.scenario.learners]).all():
            bad = num_envs[~np.isfinite(action).all(axis=(1, 2))]
            shown = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
            raise SpecError(f"{self.task}: actions of copies {shown} are not finite")
        np.clip(force[: self.scenario.learners], -1.0, 1.0, out=force[: self.scenario.learners])
        if self.prey is not None:
            force[-1] = self.prey.act(world, prey_obs)
        world.step(force)
        return world.reward()

    def _shown(self, part: World, rows: Ids | None) -> None:
        seen = part.observations()
        own = self.spec.n_agents * self.spec.obs_size
        if rows is None:
            self._state[:] = seen[:own].T
            self._prey_obs[:] = seen[-len(self._prey_obs) :]
        else:
            self.world.put(rows, part)
            self._state[rows] = seen[:own].T
            self._prey_obs[:, rows] = seen[-len(self._prey_obs) :]

    def replay(self, obs: Floats, action: NDArray[Any]) -> Resimulation:
        """Simulate one step from recorded observations ``[B, N, O]`` under actions ``[B, N, 2]``.

        The observations determine the state up to their rounding, that of the prey included; the prey acts as this
        environment's does, so that data recorded with another prey do not agree. ``valid`` is False for rows
        with NaN or infinity.

        Raises:
            SpecError: the shapes are not the task's.
            MismatchError: observations that no state of the task gives.
        """
        n = self.spec.n_agents
        size = self.spec.obs_size
        if obs.shape[1:] != (n, size) or action.shape != (len(obs), n, 2):
            raise SpecError(
                f"{self.task}: replay needs observations [B, {n}, {size}] and actions [B, {n}, 2], got "
                f"{list(obs.shape)} and {list(action.shape)}"
            )
        valid = np.isfinite(obs).all(axis=(1, 2)) & np.isfinite(action).all(axis=(1, 2))
        world = World(self.scenario, len(obs))
        world.recover(np.where(valid[:, None, None], obs, 0.0).transpose(1, 2, 0).astype(np.float64))
        before = world.observations()
        self._require_consistent(obs, before[: n * size].T.reshape(obs.shape), valid)
        moves = np.where(valid[:, None, None], action, 0.0)
        reward = self._move(world, moves, before[-len(self._prey_obs) :], np.arange(len(obs)))
        next_obs = world.observations()[: n * size].T.reshape(len(obs), n, size).astype(np.float32)
        team = reward.mean(axis=0)
        return Resimulation(next_obs, team.astype(np.float32), np.zeros(len(obs), np.bool_), valid)

    def _require_consistent(self, obs: Floats, shown: Array, valid: NDArray[np.bool_]) -> None:
        """Refuse observations that the state recovered from them does not show."""
        size = obs.shape[2] - len(self.scenario.forest)  # a forest's edge may lie within the rounding
        near = np.abs(obs - shown) <= 1e-3 * np.maximum(1.0, np.abs(shown))
        wrong = ~near[..., :size].all(axis=2) & valid[:, None]
        if wrong.any():
            row, agent = np.argwhere(wrong)[0]
            raise MismatchError(
                f"observation of agent {agent} in row {row} belongs to no state of {self.task}. Either the file is "
                "broken or these are observations of another package's particle world"
            )
