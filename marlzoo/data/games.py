"""Logged data of the coordination games: joint actions by recipe, played in the games themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.decentralized import decentralized
from marlzoo.data.episodes import Episodes
from marlzoo.envs import games
from marlzoo.envs._bridge import passages
from marlzoo.envs._differential import MOVE
from marlzoo.envs._goals import CELLS as RIGHT_CELLS
from marlzoo.envs._goals import STRIDE as GOAL_STRIDE
from marlzoo.envs._iterated import GOAL, STRIDE
from marlzoo.envs._tmaze import CHOOSE_0, COLORS, LEFT, LEFT_COLOR, NOOP, POSITIONS, RIGHT, STEP, UP
from marlzoo.envs.episodes import Play, Recording
from marlzoo.errors import ConfigError, UnknownNameError
from marlzoo.spec import Spec
from marlzoo.task import TaskName
from marlzoo.version import __version__

Actions = NDArray[Any]
Random = np.random.Generator
# act(game, step) gives the joint actions of all copies, [E, N] or [E, N, 1].
Act = Callable[[games.Game, int], Actions]
Recipe = Callable[[games.Game, Random], Act]


@dataclass(frozen=True)
class Apart:
    """Every agent records its own episodes, of which only its part is kept.

    Attributes:
        of: the recipe of an agent's episodes.
    """

    of: Callable[[int], Recipe]


CELLS: dict[str, tuple[tuple[int, int], ...]] = {
    "D1": ((0, 1),),
    "D2": ((0, 1), (1, 0)),
    "D3": ((0, 0), (0, 1), (1, 0)),
    "D4": ((0, 0), (0, 1), (1, 0), (1, 1)),
}
# 90 % at the poor equilibrium (0, 0), 4 % at each of the others, the rest on the six other cells.
IMBALANCED = np.full((3, 3), 0.02 / 6)
np.fill_diagonal(IMBALANCED, (0.9, 0.04, 0.04))
ONE_STEP_EPISODES = 5000
EPISODES = 500
PASSAGE_COUNTS = (167, 160, 173)  # of 500, as in the authors' data


def qualities(name: str) -> tuple[str, ...]:
    """Qualities of data that a game has.

    Raises:
        UnknownNameError: an unknown game.
    """
    return tuple(RECIPES[kind(name)])


def dataset(
    name: str, quality: str, *, seed: int = 0, episodes: int | None = None, **options: Any
) -> Dataset:
    """The logged data of a game; nothing is read from files, and the same arguments give the same numbers.

    Args:
        name: one of :data:`marlzoo.envs.games.TASKS`.
        quality: see :data:`RECIPES`.
        seed: of the order of episodes and of random actions.
        episodes: how many; default: 5000 of the one-step games, 500 otherwise (a mixture has as many of each part).
        options: of the game, see :func:`marlzoo.envs.games.make`.

    Raises:
        UnknownNameError: an unknown game, quality or option.
        ConfigError: an option out of its range.
    """
    recipes = RECIPES[kind(name)]
    if quality not in recipes:
        raise UnknownNameError(f"quality of {games.FAMILY}/{name}", quality, recipes)
    parts = recipes[quality]
    for setting, value in (("episodes", episodes if episodes is not None else 1), ("seed", seed)):
        least = 1 if setting == "episodes" else 0
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{setting} is {value!r}; it must be an integer of at least {least}")
    shape = games.spec(name, **options)
    share = episodes or (ONE_STEP_EPISODES if shape.horizon == 1 else EPISODES)
    command = f"load_dataset('{games.FAMILY}/{name}/marlzoo/{quality}', seed={seed}, episodes={share})"
    card = Card(
        task=f"{games.FAMILY}/{name}",
        source="marlzoo",
        quality=quality,
        engine=str(games.make(name, 1, **options).metadata["engine"]),
        versions={"marlzoo": __version__, "numpy": np.__version__},
        options=dict(games.make(name, 1, **options).metadata),
        license="Apache-2.0",
        recipe={"command": command, "seed": seed, "episodes": share},
    )

    def recorded(k: int, recipe: Recipe, count: int) -> dict[str, NDArray[Any]]:
        game = games.make(name, share, **options)
        game.seed([seed * share * count + k * share + e for e in range(share)])
        return _record(game, recipe(game, np.random.default_rng([seed, k])))

    if isinstance(parts, Apart):
        own = [recorded(i, parts.of(i), shape.n_agents) for i in range(shape.n_agents)]
        return decentralized([_dataset(shape, [part], card) for part in own])
    return _dataset(shape, [recorded(k, recipe, len(parts)) for k, recipe in enumerate(parts)], card)


def _dataset(shape: Spec, recorded: Sequence[dict[str, NDArray[Any]]], card: Card) -> Dataset:
    arrays: dict[str, Any] = {
        field: np.concatenate([part[field] for part in recorded]) for field in recorded[0]
    }
    starts = Episodes.from_lengths(arrays.pop("lengths")).starts
    return Dataset.create(shape, **arrays, starts=starts, card=card)


def kind(name: str) -> str:
    """Which recipes a task shares.

    Raises:
        UnknownNameError: an unknown task.
    """
    games.spec(name)
    if name.startswith(("modes-", "signs-", "line-", "differential-", "goals", "cells")):
        return name.partition("-")[0]
    if name.startswith("bridge"):
        return "bridge"
    return name if name in RECIPES else "matrix"


def _record(game: games.Game, act: Act) -> dict[str, NDArray[Any]]:
    """One episode of every copy, packed episode after episode with its final observation."""
    play = Play(game)
    recording = Recording(play)
    while play.live.size:
        action = act(game, play.time)
        recording.add(action, play.step(action))
    kept = np.arange(game.spec.horizon + 1) <= play.lengths[:, None]
    return {**{field: rows[kept] for field, rows in recording.arrays.items()}, "lengths": play.lengths}


def _shares(weights: NDArray[Any], episodes: int, rng: Random) -> NDArray[np.int64]:
    """Numbers ``[E]`` of kinds, in shares as near to ``weights`` as whole episodes allow, in random order."""
    bounds = np.round(np.cumsum(weights) / np.sum(weights) * episodes).astype(np.int64)
    return rng.permutation(np.searchsorted(bounds, np.arange(episodes), side="right"))


def _table(weights: NDArray[Any]) -> Recipe:
    """Joint actions of a matrix game in the shares ``weights [A, A]``."""

    def recipe(game: games.Game, rng: Random) -> Act:
        drawn = _shares(weights.ravel(), game.num_envs, rng)
        joint = np.stack(np.unravel_index(drawn, weights.shape), axis=1)
        return lambda g, t: joint

    return recipe


def _cells(*cells: tuple[int, int], actions: int = 2) -> Recipe:
    weights = np.zeros((actions, actions))
    weights[tuple(np.array(cells).T)] = 1.0
    return _table(weights)


def _matrix(game: games.Game, rng: Random, best: bool) -> Act:
    size = game.spec.action_size
    joint = np.stack(np.unravel_index(np.arange(size**2), (size, size)), axis=1)
    payoff = game.rules.step(np.zeros((size**2, 1), np.int64), joint, np.ones(size**2, np.bool_))[1]
    weights = np.where(payoff == payoff.max(), 1.0, 0.0) if best else np.ones(size**2)
    return _table(weights.reshape(size, size))(game, rng)


def _best(game: games.Game, rng: Random) -> Act:
    return _matrix(game, rng, best=True)


def _uniform(game: games.Game, rng: Random) -> Act:
    return _matrix(game, rng, best=False)


def _random(game: games.Game, rng: Random) -> Act:
    """Every legal action with equal probability, or every number of the box."""

    def act(g: games.Game, t: int) -> Actions:
        shape = (g.num_envs, g.spec.n_agents)
        if not g.spec.discrete:
            return rng.uniform(-1.0, 1.0, (*shape, g.spec.action_size))
        action_mask = g.rules.action_mask(g.current)
        assert action_mask is not None
        drawn: Actions = np.where(action_mask, rng.random(action_mask.shape), -1.0).argmax(-1)
        return drawn

    return act


def _xor_opposite(game: games.Game, rng: Random) -> Act:
    """First and last action, either way round in every step: stays in the state of the XOR game."""

    def act(g: games.Game, t: int) -> Actions:
        first = rng.permutation(np.arange(g.num_envs) % 2)
        return 3 * np.stack((first, 1 - first), axis=1)

    return act


def _pass(game: games.Game, rng: Random) -> Act:
    """Both ways round in equal shares, yielding upwards, downwards or sideways."""
    ways = passages(TaskName.parse(game.task).name)
    weights = np.outer((1.0, 1.0), PASSAGE_COUNTS[: len(ways) // 2])
    joint = ways[_shares(weights.ravel(), game.num_envs, rng)]
    return lambda g, t: joint[:, t]


def _box(*low_high: tuple[float, float, float, float]) -> Recipe:
    """Equal shares of boxes ``(low x, high x, low y, high y)``, uniform inside."""
    low = np.array(low_high)[:, 0::2]
    high = np.array(low_high)[:, 1::2]

    def recipe(game: games.Game, rng: Random) -> Act:
        k = _shares(np.ones(len(low)), game.num_envs, rng)
        joint = rng.uniform(low[k], high[k])[..., None]
        return lambda g, t: joint

    return recipe


def _modes(game: games.Game, rng: Random) -> Act:
    joint = np.repeat(_shares(np.ones(2), game.num_envs, rng)[:, None], game.spec.n_agents, axis=1)
    return lambda g, t: joint


def _signs(game: games.Game, rng: Random) -> Act:
    """All agents near 0.8 or all near -0.8, in equal shares; one team in twenty acts at random."""
    num_envs = game.num_envs
    n = game.spec.n_agents
    side = 1.0 - 2.0 * _shares(np.ones(2), num_envs, rng)[:, None]
    near = np.clip(0.8 * side + 0.1 * rng.normal(size=(num_envs, n)), -1.0, 1.0)
    anywhere = rng.uniform(-1.0, 1.0, (num_envs, n))
    joint = np.where(rng.random((num_envs, 1)) < 0.05, anywhere, near)[..., None]
    return lambda g, t: joint


def _walk(late: bool) -> Recipe:
    """The shortest safe ways of T-Maze, with colors (0, 1) and (1, 0) in equal shares.

    Agents whose ends lie crosswise exchange their columns first: agent 0 steps ahead, then both step aside. They do
    so at once, and where they stand tells ever after what they were shown; or ``late``, in the last row of the stem,
    until which nothing tells it.
    """

    def recipe(game: games.Game, rng: Random) -> Act:
        first = _shares(np.ones(2), game.num_envs, rng)

        def act(g: games.Game, t: int) -> Actions:
            state = g.current
            row, column = state[:, POSITIONS].reshape(-1, 2, 2).transpose(2, 0, 1)
            left = state[:, COLORS] == state[:, LEFT_COLOR, None]
            middle = int(g.metadata["arm"])
            outward = np.where(left, LEFT, RIGHT)
            at_end = np.where(left, column == 0, column == 2 * middle + 1)
            ahead = np.where(row > 0, UP, np.where(at_end, NOOP, outward))
            crossed = np.where(left, column > middle, column <= middle)
            level = (row[:, 0] == row[:, 1])[:, None]
            exchange = np.where(level, np.array([UP, NOOP]), outward)
            choose = CHOOSE_0 + np.stack((first, 1 - first), axis=1)
            walk = np.where(crossed & ((row <= 1) | (not late)), exchange, ahead)
            return np.where(state[:, STEP, None] == 0, choose, walk)

        return act

    return recipe


def _meet(*sides: float) -> Recipe:
    """Teams that walk to the same side, each of ``sides`` in equal shares, with some noise on their moves."""

    def recipe(game: games.Game, rng: Random) -> Act:
        side = np.asarray(sides)[_shares(np.ones(len(sides)), game.num_envs, rng)]

        def act(g: games.Game, t: int) -> Actions:
            move = (GOAL * side[:, None] - g.current) / STRIDE
            return np.clip(move + 0.3 * rng.normal(size=move.shape), -1.0, 1.0)[..., None]

        return act

    return recipe


def _to_center(noise: float) -> Recipe:
    """Agents that walk to the center of a differential game, and move at random in a share of the steps."""

    def recipe(game: games.Game, rng: Random) -> Act:
        def act(g: games.Game, t: int) -> Actions:
            walk = np.clip(-g.current / MOVE, -1.0, 1.0)
            drawn = rng.uniform(-1.0, 1.0, walk.shape)
            return np.where(rng.random(walk.shape) < noise, drawn, walk)[..., None]

        return act

    return recipe


def _to_goal(game: games.Game, rng: Random) -> Act:
    """Points that walk to the goal of their episode, with noise on their moves."""

    def act(g: games.Game, t: int) -> Actions:
        away = g.current[:, None, 4:] - g.current[:, :4].reshape(-1, 2, 2)
        move = away / GOAL_STRIDE + 0.5 * rng.normal(size=away.shape)
        return np.clip(move, -1.0, 1.0)

    return act


def _half_right(game: games.Game, rng: Random) -> Act:
    """Each agent's right action in half of the steps, any in the others."""

    def act(g: games.Game, t: int) -> Actions:
        drawn = rng.integers(RIGHT_CELLS, size=(g.num_envs, 2))
        return np.where(rng.random(drawn.shape) < 0.5, g.current, drawn)

    return act


def _with_random_partners(agent: int) -> Recipe:
    """Episodes of an agent that walks to the center with noise in half of them; all others move at random."""

    def recipe(game: games.Game, rng: Random) -> Act:
        walks = _shares(np.ones(2), game.num_envs, rng) == 1
        walking = _to_center(0.5)(game, rng)

        def act(g: games.Game, t: int) -> Actions:
            joint = rng.uniform(-1.0, 1.0, (g.num_envs, g.spec.n_agents, 1))
            joint[walks, agent] = walking(g, t)[walks, agent]
            return joint

        return act

    return recipe


def _with_stubborn_partner(agent: int) -> Recipe:
    """Episodes of an agent that acts uniformly beside one whose first step is its first action in 90 % of them."""

    def recipe(game: games.Game, rng: Random) -> Act:
        kinds = _shares(np.outer((1.0, 1.0), (0.9, 0.1)), game.num_envs, rng)
        first = np.stack(np.unravel_index(kinds, (2, 2)), axis=1)
        second = rng.integers(2, size=first.shape)  # which does not matter
        return lambda g, t: (second if t else first)[:, :: -1 if agent else 1]

    return recipe


_PEAK = (0.4, 0.8, 0.4, 0.8)
RECIPES: dict[str, dict[str, tuple[Recipe, ...] | Apart]] = {
    "xor": {name: (_cells(*cells),) for name, cells in CELLS.items()},
    "matrix": {"uniform": (_uniform,), "optimal": (_best,)},
    "equilibria": {"balanced": (_uniform,), "imbalanced": (_table(IMBALANCED),)},
    "xor-two-state": {"optimal": (_xor_opposite,), "random": (_random,), "mix": (_xor_opposite, _random)},
    "bridge": {"optimal": (_pass,), "random": (_random,), "mix": (_pass, _random)},
    "sign-agreement": {
        "uniform": (_random,),
        "agree": (_box((0.5, 1.0, 0.5, 1.0), (-1.0, -0.5, -1.0, -0.5)),),
        "opposite": (_box((0.0, 1.0, -1.0, 0.0)),),
    },
    "two-peaks": {"uniform": (_random,), "peaks": (_box(_PEAK, (-0.8, -0.4, -0.8, -0.4)),)},
    "t-maze": {
        "expert": (_walk(late=False),),
        "late": (_walk(late=True),),
        "random": (_random,),
        "mix": (_walk(late=False), _random),
    },
    "iterated-coordination": {"left": (_meet(-1.0),), "right": (_meet(1.0),), "mix": (_meet(-1.0, 1.0),)},
    "goals": {"noisy": (_to_goal,), "random": (_random,), "mix": (_to_goal, _random)},
    "cells": {"noisy": (_half_right,), "random": (_random,)},
    "two-steps": {"random": (_random,), "decentralized": Apart(_with_stubborn_partner)},
    "differential": {
        "center": (_to_center(0.0),),
        "random": (_random,),
        "mix": (_to_center(0.5), _random),
        "decentralized": Apart(_with_random_partners),
    },
    "modes": {"modes": (_modes,), "random": (_random,)},
    "signs": {"modes": (_signs,), "random": (_random,)},
    "line": {"uniform": (_random,)},
}
