"""Family ``smax``: JaxMARL's SMAX, battles like SMAC's without the game, E copies stepped together.

Needs the extra ``smax`` (jaxmarl and jax, about 0.9 GB); listing does not. The opponent is JaxMARL's heuristic,
which shoots the closest. Sizes and rules differ from SMAC's: data recorded here are new data, and SMAC's datasets
cannot be scored here. Actions: 0 north, 1 east, 2 south, 3 west, 4 stop (the only one of the dead), 5 + j attack
enemy j. One team reward: the share of the enemies' health that was removed, and 1 for a win, at most 2 in all.

Episodes end with a side or after ``horizon`` steps (100). JaxMARL itself compares its clock before advancing it
and so plays one step more with ``max_steps=100``.

The first step of a task compiles for some ten seconds. Copies are computed in blocks of :data:`BLOCK`, always whole:
one program serves any number of copies, and a copy's numbers do not depend on how many there are, since compiled for
another number it would round differently.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs.base import BatchedEnv, Ids, Observation, Step
from marlzoo.errors import ConfigError, MissingExtraError, SpecError, UnknownNameError
from marlzoo.spec import Spec

FAMILY = "smax"
PRESET = "smac"  # methods need no settings of their own here
HORIZON = 100
MOVES = 5  # actions before the attacks
BLOCK = 64  # copies computed together
# Allies and enemies of the maps that exist in SMAC (JaxMARL has no units for the others), and of SMACv2's kind.
MAPS: dict[str, tuple[int, int]] = {
    "3m": (3, 3),
    "8m": (8, 8),
    "25m": (25, 25),
    "2s3z": (5, 5),
    "3s5z": (8, 8),
    "5m_vs_6m": (5, 6),
    "10m_vs_11m": (10, 11),
    "27m_vs_30m": (27, 30),
    "3s5z_vs_3s6z": (8, 9),
    "3s_vs_5z": (3, 5),
    "6h_vs_8z": (6, 8),
    "corridor": (6, 24),
    # As in SMACv2, types and places of the units are drawn for every episode.
    "smacv2_5_units": (5, 5),
    "smacv2_10_units": (10, 10),
    "smacv2_20_units": (20, 20),
}
TASKS: tuple[str, ...] = tuple(MAPS)
# JaxMARL's numbers of the unit types of the corridor, which it does not list.
_ZEALOT = 3
_ZERGLING = 4


def spec(name: str, **options: Any) -> Spec:
    """Shape of the map ``name``, without jax; options as in :func:`make`.

    Raises:
        UnknownNameError: an unknown map or option.
        ConfigError: an option out of its range.
    """
    if name not in MAPS:
        raise UnknownNameError(f"{FAMILY} map", name, MAPS)
    for option in options:
        if option != "horizon":
            raise UnknownNameError(f"option of {FAMILY}/{name}", option, ["horizon"])
    allies, enemies = MAPS[name]
    return Spec(
        n_agents=allies,
        obs_size=13 * (allies - 1 + enemies) + 10,
        state_size=12 * (allies + enemies),
        action_kind="discrete",
        action_size=MOVES + enemies,
        horizon=_positive(name, "horizon", options.get("horizon", HORIZON)),
    )


def make(name: str, num_envs: int, **options: Any) -> SMAX:
    """E copies of the map ``name``.

    Args:
        name: one of :data:`TASKS`.
        num_envs: number of copies E.
        options: ``horizon``, time limit in steps (100).

    Raises:
        UnknownNameError: an unknown map or option.
        ConfigError: an option out of its range.
        MissingExtraError: jaxmarl is not installed.
    """
    return SMAX(name, spec(name, **options), _positive(name, "num_envs", num_envs))


def _positive(name: str, option: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"{FAMILY}/{name}: {option} must be a positive integer, got {value!r}")
    return int(value)


class SMAX(BatchedEnv):
    """E copies of one map; made by :func:`make`.

    Copies start with the random streams of ``seed([0, 1, ...])``. The k-th episode of a stream is decided by seed, k
    and actions. ``info["win"] [E]`` says that the battle was won with this step.
    """

    can_win = True
    may_hang = False
    exact_versions = (
        "engine_version",
    )  # rules change with JaxMARL's releases, and battles cannot be replayed

    def __init__(self, name: str, shape: Spec, num_envs: int) -> None:
        self.task = f"{FAMILY}/{name}"
        self.spec = shape
        self.num_envs = num_envs
        self._programs = _compiled(name, shape.horizon)
        self.metadata = {
            "engine": "jaxmarl",
            "engine_version": importlib.metadata.version("jaxmarl"),
            "engine_jax": importlib.metadata.version("jax"),  # whose rounding is part of the battle
            "opponent": "heuristic, closest",
        }
        blocks = -(-num_envs // BLOCK)
        self._blocks = [slice(k * BLOCK, (k + 1) * BLOCK) for k in range(blocks)]
        self._battles: list[Any] = [None] * blocks
        self._padded = rows = blocks * BLOCK
        # jax reads numpy's memory later than it is given: these arrays are replaced, never written to.
        self._time: NDArray[np.int64] = np.zeros(rows, np.int64)
        self._obs = np.zeros((rows, shape.n_agents, shape.obs_size), np.float32)
        self._state = np.zeros((rows, shape.state_size), np.float32)
        self._masks = np.zeros((rows, shape.n_agents, shape.action_size), np.bool_)
        self.seed(range(num_envs))

    def seed(self, seeds: Sequence[int]) -> None:  # noqa: D102
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{self.task}: {self.num_envs} copies need as many seeds, got {len(seeds)}")
        mixed = [np.random.SeedSequence(int(seed)).generate_state(2, np.uint32) for seed in seeds]
        self._keys = np.zeros((self._padded, 2), np.uint32)
        self._keys[: self.num_envs] = mixed
        self._episode: NDArray[np.int64] = np.zeros(self._padded, np.int64)

    def reset(self, ids: Ids | None = None) -> Observation:  # noqa: D102
        chosen = self._mask(ids)
        for k, block in enumerate(self._blocks):
            if chosen[block].any() or self._battles[k] is None:
                new, shown = self._programs.start(self._keys[block], self._episode[block])
                old = self._battles[k]
                self._battles[k] = new if old is None else self._programs.choose(chosen[block], new, old)
                self._take(block, shown, chosen)
        self._episode = self._episode + chosen
        self._time = np.where(chosen, 0, self._time)
        return Observation(*self._shown())

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        """Advance the copies ``ids`` by one step under ``action [E, N]``.

        Raises:
            SpecError: wrong shape or an illegal action; nothing has been stepped.
        """
        if action.shape != (self.num_envs, self.spec.n_agents):
            shape = (self.num_envs, self.spec.n_agents)
            raise SpecError(f"{self.task}: actions must have shape {shape}, got {action.shape}")
        chosen = self._mask(ids)
        taken = np.full((self._padded, self.spec.n_agents), MOVES - 1, np.int32)
        taken[: self.num_envs] = self._checked(action, chosen[: self.num_envs])
        reward = np.zeros(self._padded, np.float32)
        terminal = np.zeros(self._padded, np.bool_)
        win = np.zeros(self._padded, np.bool_)
        for k, block in enumerate(self._blocks):
            if chosen[block].any():
                self._battles[k], shown, outcome = self._programs.advance(
                    self._keys[block],
                    self._episode[block],
                    self._time[block],
                    chosen[block],
                    self._battles[k],
                    taken[block],
                )
                self._take(block, shown, chosen)
                reward[block], terminal[block], win[block] = map(np.asarray, outcome)
        self._time = self._time + chosen
        truncated = chosen & ~terminal & (self._time >= self.spec.horizon)
        mine = slice(0, self.num_envs)
        return Step(
            *self._shown(),
            reward=np.where(chosen, reward, np.float32(0))[mine],
            terminal=(terminal & chosen)[mine],
            truncated=truncated[mine],
            info={"win": (win & chosen)[mine]},
        )

    def render(self, index: int, width: int, height: int) -> NDArray[np.uint8]:
        """A picture of the battle: allies full, enemies hollow, their health above them."""
        from marlzoo.envs._drawing import battle

        block, row = divmod(index, BLOCK)
        units = self._battles[block].state
        full = np.asarray(self._programs.full_health)
        kinds = np.asarray(units.unit_types[row])
        share = np.asarray(units.unit_health[row]) / full[kinds] * np.asarray(units.unit_alive[row])
        position = np.asarray(units.unit_positions[row], np.float64)
        return battle(position, share, kinds, self.spec.n_agents, self._programs.extent, width, height)

    def _mask(self, ids: Ids | None) -> NDArray[np.bool_]:
        """Chosen copies, of all that are computed."""
        chosen = np.zeros(self._padded, np.bool_)
        chosen[: self.num_envs][slice(None) if ids is None else np.asarray(ids, np.intp)] = True
        return chosen

    def _checked(self, action: NDArray[Any], chosen: NDArray[np.bool_]) -> NDArray[Any]:
        """Actions, those of copies that are not stepped replaced by standing still."""
        inside = (action >= 0) & (action < self.spec.action_size)
        safe = np.where(inside & chosen[:, None], action, MOVES - 1)
        action_mask = np.take_along_axis(self._masks[: self.num_envs], safe[..., None], -1)[..., 0] & inside
        bad = np.argwhere(~action_mask & chosen[:, None])
        if len(bad):
            copy, agent = bad[0]
            raise SpecError(
                f"{self.task}: agent {agent} of copy {copy} took the action {action[copy, agent]}, which is not "
                f"legal there; legal are {np.flatnonzero(self._masks[copy, agent]).tolist()}"
            )
        return safe

    def _take(self, block: slice, shown: Any, chosen: NDArray[np.bool_]) -> None:
        rows = chosen[block]
        for mine, new in zip((self._obs, self._state, self._masks), shown, strict=True):
            mine[block][rows] = np.asarray(new)[rows]

    def _shown(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        mine = slice(0, self.num_envs)
        return self._obs[mine].copy(), self._state[mine].copy(), self._masks[mine].copy()


def _battle(name: str, horizon: int) -> tuple[Any, Any]:
    """jax, and JaxMARL's environment of a map.

    Raises:
        MissingExtraError: jaxmarl is not installed.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        jax = importlib.import_module("jax")
        with _silent():  # it prints what it did not import
            smax = importlib.import_module("jaxmarl.environments.smax")
            maps = importlib.import_module("jaxmarl.environments.smax.smax_env")
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "jaxmarl", "smax", f"{FAMILY}/{name}") from error
    if name == "corridor":
        units = jax.numpy.array([_ZEALOT] * 6 + [_ZERGLING] * 24, jax.numpy.uint8)
        scenario = maps.Scenario(units, 6, 24, False, False)
    else:
        scenario = maps.map_name_to_scenario(name)
    battle = smax.HeuristicEnemySMAX(
        scenario=scenario, enemy_shoots=True, attack_mode="closest", max_steps=horizon + 1
    )
    return jax, battle


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Print nothing; a module of JaxMARL undoes a redirection by taking the process's own streams."""
    kept = sys.stdout, sys.stderr, sys.__stdout__
    sys.stdout = sys.__stdout__ = io.StringIO()  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.__stdout__ = kept  # type: ignore[misc]


@dataclass(frozen=True)
class _Programs:
    """Compiled functions of one block.

    Attributes:
        start: keys, episodes -> battles, what they show.
        advance: keys, episodes, times, chosen, battles, actions -> battles (the chosen ones changed), what they
            show, (reward, over, won).
        choose: chosen, new battles, old battles -> battles.
        full_health: of each type of unit.
        extent: width and height of the map.
    """

    start: Callable[..., Any]
    advance: Callable[..., Any]
    choose: Callable[..., Any]
    full_health: Any
    extent: tuple[float, float]


@functools.cache
def _compiled(name: str, horizon: int) -> _Programs:
    """The programs of a map; they are compiled when they are first called."""
    jax, battle = _battle(name, horizon)
    jnp = jax.numpy
    allies = MAPS[name][0]

    def shown(state: Any, obs: Any) -> tuple[Any, Any, Any]:
        action_mask = battle.get_avail_actions(state)
        stacked = jnp.stack([obs[agent] for agent in battle.agents])
        return (
            stacked,
            obs["world_state"],
            jnp.stack([action_mask[agent] for agent in battle.agents]).astype(bool),
        )

    def key_of(key: Any, episode: Any) -> Any:
        return jax.random.fold_in(key, episode)

    def start_one(key: Any, episode: Any) -> Any:
        obs, state = battle.reset(key_of(key, episode))
        return state, shown(state, obs)

    def advance_one(key: Any, episode: Any, time: Any, state: Any, action: Any) -> Any:
        chance = jax.random.fold_in(key_of(key, episode), time + 1)
        actions = {agent: action[i] for i, agent in enumerate(battle.agents)}
        obs, state, reward, _, _ = battle.step_env(chance, state, actions)
        alive = state.state.unit_alive
        left = alive[:allies].any()
        right = alive[allies:].any()
        return state, shown(state, obs), (reward[battle.agents[0]], ~(left & right), left & ~right)

    def choose(chosen: Any, new: Any, old: Any) -> Any:
        def pick(a: Any, b: Any) -> Any:
            return jnp.where(chosen.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

        return jax.tree.map(pick, new, old)

    def advance(keys: Any, episode: Any, time: Any, chosen: Any, old: Any, action: Any) -> Any:
        new, seen, outcome = jax.vmap(advance_one)(keys, episode, time, old, action)
        return choose(chosen, new, old), seen, outcome

    return _Programs(
        jax.jit(jax.vmap(start_one)),
        jax.jit(advance),
        jax.jit(choose),
        battle.unit_type_health,
        (float(battle.map_width), float(battle.map_height)),
    )
