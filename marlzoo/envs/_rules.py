"""Rules of small games as functions of state arrays: one call moves every copy."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
State = NDArray[np.int64]
Moved = tuple[State, Floats, Bools]


class Rules(Protocol):
    """Rules of a game as stateless functions; copies of the game are rows of the state arrays.

    Attributes:
        n_agents: number of agents N.
        actions: number of actions A of each agent; 0: continuous ones in [-1, 1].
        dimensions: of a continuous action; 1 where actions are discrete.
        obs_size: entries O of an agent's observation.
        state_size: entries S of the global state.
        can_win: whether an episode that ends by the rules (not by the time limit) is won.
        reward_per_agent: whether each agent has a reward of its own, instead of the team.
    """

    n_agents: int
    actions: int
    dimensions: int
    obs_size: int
    state_size: int
    can_win: bool
    reward_per_agent: bool

    def start(self, chance: Floats) -> State:
        """First states ``[E, D]`` from numbers ``[E]`` uniform on [0, 1)."""

    def observe(self, state: State) -> tuple[Floats, Floats]:
        """``state [E, D] -> obs [E, N, O], global state [E, S]``."""

    def recover(self, shown: Floats) -> tuple[State, Bools]:
        """Inverse of :meth:`observe`: states ``[B, D]`` of global states ``[B, S]``, and which of them exist."""

    def action_mask(self, state: State) -> Bools | None:
        """Legal actions ``[E, N, A]``, None for continuous actions."""

    def step(self, state: State, action: NDArray[Any], last: Bools) -> Moved:
        """One step of all copies.

        Args:
            state: ``[E, D]``.
            action: ``[E, N]`` integers, or ``[E, N, A]`` floats.
            last: ``[E]``, whether the time limit ends the episode with this step.

        Returns:
            Next states ``[E, D]``, rewards ``[E]`` (``[E, N]`` where agents have different ones), and whether the
            episode ended ``[E]``.
        """


class OneStep:
    """One decision, then the end; every agent sees the same constant.

    Args:
        n_agents: N.
        actions: A, or 0 for continuous actions.
        payoff: reward ``[E]`` of joint actions ``[E, N]``.
    """

    obs_size = state_size = dimensions = 1
    can_win = reward_per_agent = False

    def __init__(self, n_agents: int, actions: int, payoff: Any) -> None:
        self.n_agents = n_agents
        self.actions = actions
        self.payoff = payoff

    def start(self, chance: Floats) -> State:
        """All copies are in the one state."""
        return np.zeros((len(chance), 1), np.int64)

    def observe(self, state: State) -> tuple[Floats, Floats]:
        """The one-hot number of the one state."""
        return np.ones((len(state), self.n_agents, 1)), np.ones((len(state), 1))

    def recover(self, shown: Floats) -> tuple[State, Bools]:
        """The one state."""
        return np.zeros((len(shown), 1), np.int64), np.asarray((shown == 1.0).all(-1))

    def action_mask(self, state: State) -> Bools | None:
        """Everything is legal."""
        return np.ones((len(state), self.n_agents, self.actions), np.bool_) if self.actions else None

    def step(self, state: State, action: NDArray[Any], last: Bools) -> Moved:
        """Pay and end."""
        joint = action if self.actions else action[..., 0]
        return state, np.asarray(self.payoff(joint), np.float64), np.ones(len(state), np.bool_)


class TwoState:
    """Two matrix games, the second of them XOR, with four actions of which two matter (AlberDICE's release).

    In state 1 the first and the last action play XOR (0, 1, 1, -2) and all others pay 0; opposite ones keep
    the state, everything else leads to state 0. There all pairs pay -2 except (first, first) and (last, last),
    which pay ``win`` and lead back. Episodes start in state 1 and have no end of their own.
    """

    n_agents = 2
    actions = 4
    dimensions = 1
    obs_size = 2
    state_size = 2
    can_win = reward_per_agent = False

    def __init__(self, win: float) -> None:
        equal = np.zeros((4, 4), np.bool_)
        equal[0, 0] = equal[3, 3] = True
        opposite = np.zeros((4, 4), np.bool_)
        opposite[0, 3] = opposite[3, 0] = True
        xor = np.where(opposite, 1.0, 0.0)
        xor[3, 3] = -2.0
        self._payoff = np.stack((np.where(equal, win, -2.0), xor))
        self._next = np.stack((equal, opposite)).astype(np.int64)

    def start(self, chance: Floats) -> State:
        """State 1."""
        return np.ones((len(chance), 1), np.int64)

    def observe(self, state: State) -> tuple[Floats, Floats]:
        """The state's one-hot number, the same for both."""
        shown = np.eye(2)[state[:, 0]]
        return np.repeat(shown[:, None], 2, axis=1), shown

    def recover(self, shown: Floats) -> tuple[State, Bools]:
        """The number of the hot entry."""
        number = shown.argmax(-1)
        return number[:, None], np.asarray((shown == np.eye(2)[number]).all(-1))

    def action_mask(self, state: State) -> Bools | None:
        """Everything is legal."""
        return np.ones((len(state), 2, 4), np.bool_)

    def step(self, state: State, action: NDArray[Any], last: Bools) -> Moved:
        """Look both tables up."""
        place = (state[:, 0], action[:, 0], action[:, 1])
        return self._next[place][:, None], self._payoff[place], np.zeros(len(state), np.bool_)
