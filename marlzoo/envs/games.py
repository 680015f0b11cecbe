"""Family ``games``: small coordination games on which each kind of failure is known in advance.

All are cooperative and take seconds. Payoffs and rules: AlberDICE's release (XOR, its two variants, Bridge), the
recipe repository of offline MARL (pure coordination), Oryx (T-Maze), arXiv 2407.01343 (sign agreement), I2Q's release
(differential games), MOMA-PPO (iterated coordination, whose rules are ours), FOCAL (goals, whose rules are ours); the
game in two steps, that with several equilibria, the two unequal peaks, the additive game, the combinatorial modes,
the signs, the cells and the line (on which LOMAQ's study shows locality) are our own. Rewards of the one-step games
are rewards per step. Their data come from :func:`marlzoo.data.games.dataset`, not from files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._bridge import STARTS, Bridge
from marlzoo.envs._differential import PEAK_WIDTH, Differential, TwoSteps
from marlzoo.envs._goals import Cells, Goals
from marlzoo.envs._iterated import Iterated
from marlzoo.envs._line import Line
from marlzoo.envs._rules import OneStep, Rules, TwoState
from marlzoo.envs._streams import uniform
from marlzoo.envs._tmaze import POSITIONS, TMaze
from marlzoo.envs.base import BatchedEnv, Ids, Observation, Resimulation, Step
from marlzoo.errors import ConfigError, MismatchError, SpecError, UnknownNameError
from marlzoo.spec import Spec

FAMILY = "games"
# The module that computes the logged data; a name, because data stand above environments.
DATASETS = "marlzoo.data.games"
PRESET = "defaults"  # what no method presets for games has its own defaults
# Versions of the rules, which data and environment must share: 2 is the rule of Bridge's published transitions.
VERSION = 1
VERSIONS = {"bridge": 2, "bridge-apart": 2}

MATRICES: dict[str, tuple[tuple[float, ...], ...]] = {
    "xor": ((0, 1), (1, -2)),
    "additive": ((0, 1), (1, 2)),
    "coordination-2x2": ((10, 9), (8, 0)),
    "coordination-3x3": ((5, 0, -50), (0, 0, -50), (-50, -50, 100)),
    "equilibria": ((5, -20, -20), (-20, 10, -20), (-20, -20, 20)),
}
MODES = (2, 4, 8, 16, 32, 64)
LINES = (2, 10, 20, 40)
SIGNS = (2, 4, 8)  # the same game with continuous actions: all signs must agree
SURFACES: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "sign-agreement": lambda a: a[:, 0] * a[:, 1],
    "two-peaks": lambda a: (
        np.exp(-8 * np.square(a - 0.6).sum(1)) + 0.6 * np.exp(-8 * np.square(a + 0.6).sum(1))
    ),
}
GOALS: dict[str, tuple[bool, bool]] = {  # whether goals are not for training, and whether agents see them
    "goals": (False, False),
    "goals-unseen": (True, False),
    "goals-shown": (False, True),
    "goals-shown-unseen": (True, True),
}
LISTED = 50_000  # joint actions, at most, whose payoffs are listed to find the best
OPTIONS: dict[str, dict[str, float]] = {
    "xor-four": {"win": 1.0},
    "xor-two-state": {"win": 1.0, "horizon": 10},
    "bridge": {"horizon": 50},
    "bridge-apart": {"horizon": 50},
    "t-maze": {"length": 4, "arm": 2},
    "iterated-coordination": {"horizon": 10},
}
TASKS: tuple[str, ...] = (
    *MATRICES,
    "xor-four",
    "xor-two-state",
    "bridge",
    "bridge-apart",
    *SURFACES,
    "t-maze",
    "iterated-coordination",
    "two-steps",
    *GOALS,
    "cells",
    "cells-unseen",
    *(f"differential-{n}" for n in PEAK_WIDTH),
    *(f"modes-{n}" for n in MODES),
    *(f"signs-{n}" for n in SIGNS),
    *(f"line-{n}" for n in LINES),
)


def spec(name: str, **options: Any) -> Spec:
    """The shape of the task ``name`` (without family); options as in :func:`make`."""
    return _spec(*_rules(name, options))


def known_returns(name: str) -> tuple[float, float] | None:
    """Mean return of uniformly random actions, and the best return, of a one-step game ``name`` (without family).

    Matrix games and the line exactly; games of continuous actions on a grid with steps of 0.01. None for longer games
    and where there are too many joint actions to list.
    """
    rules, _ = _rules(name, {})
    if isinstance(rules, Line):
        return 0.5, 1.0
    if not isinstance(rules, OneStep):
        return None
    each = np.arange(rules.actions) if rules.actions else np.linspace(-1.0, 1.0, 201)
    if len(each) ** rules.n_agents > LISTED:
        return None
    joint = np.stack(np.meshgrid(*[each] * rules.n_agents, indexing="ij"), -1).reshape(-1, rules.n_agents)
    pay = np.asarray(rules.payoff(joint), np.float64)
    return round(float(pay.mean()), 9) + 0.0, round(float(pay.max()), 9)


def make(name: str, num_envs: int, **options: Any) -> Game:
    """E copies of the task ``name`` (without family).

    Args:
        name: one of :data:`TASKS`.
        num_envs: number of copies E.
        options: those of :data:`OPTIONS`: ``win`` (payoff of agreement) of ``xor-four`` and ``xor-two-state``;
            ``horizon`` (time limit) of ``xor-two-state``, ``iterated-coordination`` and Bridge, whose authors record
            with 50 steps and score with 20; ``length`` of the stem and ``arm`` of the bar of ``t-maze``.

    Raises:
        UnknownNameError: an unknown task or option.
        ConfigError: an option out of its range.
    """
    if not isinstance(num_envs, int) or num_envs < 1:
        raise ConfigError(f"{FAMILY}/{name}: num_envs is {num_envs!r}; it must be a positive integer")
    rules, horizon = _rules(name, options)
    return Game(name, rules, _spec(rules, horizon), num_envs, _settings(name, options))


class Game(BatchedEnv):
    """E copies of one game; made by :func:`make`.

    Copies start with the random streams of ``seed([0, 1, ...])``. The k-th episode of a stream is decided by
    seed and k alone.
    """

    may_hang = False

    def __init__(
        self, name: str, rules: Rules, shape: Spec, num_envs: int, settings: dict[str, float] | None = None
    ) -> None:
        self.task = f"{FAMILY}/{name}"
        self.rules = rules
        self.spec = shape
        self.num_envs = num_envs
        version = VERSIONS.get(name, VERSION)
        self.metadata = {"engine": "marlzoo games", "rules_version": version, **(settings or {})}
        self.can_win = rules.can_win
        self.state_replayable = not isinstance(rules, Line)  # whose noise no state shows
        self.seed(range(num_envs))
        self._state = rules.start(np.zeros(num_envs))
        self._time = np.zeros(num_envs, np.int64)

    @property
    def current(self) -> NDArray[np.int64]:
        """The rules' own states ``[E, D]``; not to be written to."""
        return self._state

    def seed(self, seeds: Sequence[int]) -> None:  # noqa: D102
        self._seeds = np.array([int(s) % 2**64 for s in seeds], np.uint64)
        self._episode = np.zeros(self.num_envs, np.uint64)

    def reset(self, ids: Ids | None = None) -> Observation:  # noqa: D102
        rows = slice(None) if ids is None else ids
        self._state[rows] = self.rules.start(uniform(self._seeds[rows], self._episode[rows]))
        self._episode[rows] += np.uint64(1)
        self._time[rows] = 0
        return Observation(*self._shown())

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:  # noqa: D102
        rows = np.arange(self.num_envs) if ids is None else ids
        taken = self._checked(np.asarray(action)[rows], rows)
        self._time[rows] += 1
        last = self._time[rows] >= self.spec.horizon
        self._state[rows], earned, ended = self.rules.step(self._state[rows], taken, last)
        reward = np.zeros((self.num_envs, *earned.shape[1:]), np.float32)
        terminal, truncated = np.zeros((2, self.num_envs), np.bool_)
        reward[rows] = earned
        terminal[rows] = ended
        truncated[rows] = last & ~ended
        if self.spec.reward_per_agent and reward.ndim == 1:
            reward = np.repeat(reward[:, None], self.spec.n_agents, axis=1)
        info = {"win": terminal.copy()} if self.can_win else {}
        return Step(*self._shown(), reward=reward, terminal=terminal, truncated=truncated, info=info)

    def replay_states(self, state: NDArray[np.float32], action: NDArray[Any]) -> Resimulation:
        """One step from recorded states; the time limit, which they do not tell, is left out.

        Raises:
            MismatchError: a recorded action is not legal there.
        """
        known, valid = self.rules.recover(state.astype(np.float64))
        action_mask = self.rules.action_mask(known)
        if action_mask is not None:
            wrong = valid[:, None] & ~np.take_along_axis(action_mask, action[..., None], -1)[..., 0]
            if wrong.any():
                row, agent = np.argwhere(wrong)[0]
                raise MismatchError(
                    f"{self.task}: agent {agent} took the action {action[row, agent]} in the state "
                    f"{state[row].tolist()}, in which the game does not allow it"
                )
        after, reward, terminal = self.rules.step(known, action, np.zeros(len(known), np.bool_))
        obs, _ = self.rules.observe(after)
        return Resimulation(obs.astype(np.float32), reward.astype(np.float32), terminal, valid)

    def render(self, index: int, width: int, height: int) -> NDArray[np.uint8]:
        """A picture of the board of Bridge or T-Maze; the other games have nothing to see."""
        rules = self.rules
        state = self._state[index]
        if not isinstance(rules, Bridge | TMaze):
            raise SpecError(
                f"{self.task}: this environment cannot be drawn: a matrix game has nothing to see; marlzoo eval "
                "plays it without pictures"
            )
        from marlzoo.envs import _drawing

        if isinstance(rules, Bridge):
            return _drawing.bridge(state, width, height)
        return _drawing.t_maze(
            rules.free(), state[POSITIONS].reshape(2, 2), rules.goals(state), width, height
        )

    def _checked(self, action: NDArray[Any], rows: Ids) -> NDArray[Any]:
        action_mask = self.rules.action_mask(self._state[rows])
        if action_mask is None:
            return np.clip(action.astype(np.float64), -1.0, 1.0)
        inside = (action >= 0) & (action < self.spec.action_size)
        fine = np.take_along_axis(action_mask, np.where(inside, action, 0)[..., None], -1)[..., 0] & inside
        if not fine.all():
            k, agent = np.argwhere(~fine)[0]
            raise SpecError(
                f"{self.task}: agent {agent} of copy {rows[k]} took the action {action[k, agent]}, which is not "
                f"legal there; legal are {np.flatnonzero(action_mask[k, agent]).tolist()}"
            )
        return action

    def _shown(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_] | None]:
        obs, state = self.rules.observe(self._state)
        return obs.astype(np.float32), state.astype(np.float32), self.rules.action_mask(self._state)


def _rules(name: str, options: dict[str, Any]) -> tuple[Rules, int]:
    """A task's rules and its time limit."""
    if name not in TASKS:
        raise UnknownNameError("task", f"{FAMILY}/{name}", [f"{FAMILY}/{task}" for task in TASKS])
    s = _settings(name, options)
    horizon = int(s.get("horizon", 1))
    if name == "xor-two-state":
        return TwoState(s["win"]), horizon
    if name in STARTS:
        return Bridge(STARTS[name]), horizon
    if name == "t-maze":
        length = int(s["length"])
        arm = int(s["arm"])
        return TMaze(length, arm), 2 * (length + arm)
    if name == "iterated-coordination":
        return Iterated(), horizon
    if name == "two-steps":
        return TwoSteps(), 2
    if name in GOALS:
        return Goals(*GOALS[name]), 20
    if name.startswith("cells"):
        return Cells(unseen=name.endswith("unseen")), 20
    if name.startswith("differential-"):
        return Differential(int(name.removeprefix("differential-"))), 25
    if name in SURFACES:
        return OneStep(2, 0, SURFACES[name]), 1
    if name.startswith("modes-"):
        n = int(name.removeprefix("modes-"))
        return OneStep(n, 2, lambda a: (a == a[:, :1]).all(1)), 1
    if name.startswith("signs-"):
        n = int(name.removeprefix("signs-"))
        return OneStep(n, 0, lambda a: (a * a[:, :1] > 0).all(1)), 1
    if name.startswith("line-"):
        return Line(int(name.removeprefix("line-"))), 1
    table = np.array(payoffs(name, s.get("win", 1.0)), np.float64)
    return OneStep(2, len(table), lambda a: table[a[:, 0], a[:, 1]]), 1


def payoffs(name: str, win: float = 1.0) -> tuple[tuple[float, ...], ...]:
    """Payoff table of a one-step game of two agents, ``[A, A]``."""
    if name == "xor-four":
        return ((win, -2, -2, -2), (-1, 0, 0, -2), (-1, 0, 0, -2), (-1, -1, -1, win))
    return MATRICES[name]


def _settings(name: str, options: dict[str, Any]) -> dict[str, float]:
    """A task's options, checked, with defaults."""
    known = OPTIONS.get(name, {})
    for option, value in options.items():
        if option not in known:
            raise UnknownNameError(f"option of {FAMILY}/{name}", option, known)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if option == "win" and not (number and np.isfinite(value)):
            raise ConfigError(f"option win of {FAMILY}/{name} is {value!r}; it must be a finite number")
        if option != "win" and not (isinstance(value, int) and number and value >= 1):
            raise ConfigError(
                f"option {option} of {FAMILY}/{name} is {value!r}; it must be a positive integer"
            )
    return {**known, **options}


def _spec(rules: Rules, horizon: int) -> Spec:
    return Spec(
        n_agents=rules.n_agents,
        obs_size=rules.obs_size,
        state_size=rules.state_size,
        action_kind="discrete" if rules.actions else "continuous",
        action_size=rules.actions or rules.dimensions,
        horizon=horizon,
        reward_per_agent=rules.reward_per_agent,
    )
