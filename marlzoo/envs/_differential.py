"""Games in which an agent's data depend on its partners (after I2Q's differential game, and a table in two steps)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._box import BoxState
from marlzoo.envs._iterated import single
from marlzoo.envs._rules import Bools, Floats, Moved, State
from marlzoo.envs._streams import uniforms

MOVE = 0.1  # largest move of an agent in a step
PEAK_WIDTH = {2: 0.12, 3: 0.25, 4: 0.38, 5: 0.51}  # of the basin at the center, by number of agents
RING = (0.6, 1.0)  # distances of the poor basin
VALUES = ((4.0, 2.0), (0.0, 5.0))  # what the second step pays, by the first one's joint action


class Differential(BoxState):
    """Move a point of the box [-1, 1]^n, one coordinate per agent, to one of two basins.

    With the distance l = sqrt(2 / n sum x^2) before the move, a step pays (cos(pi l / m) + 1) / 2 inside the narrow
    basin l < m at the center, 0.15 (cos(15 (l - 0.8)) + 1) on the broad ring 0.6 <= l < 1, and 0 elsewhere. Every
    agent sees the whole point. The release writes 3.14 for pi.

    Args:
        n_agents: n, 2 to 5.
    """

    dimensions = 1
    can_win = False
    reward_per_agent = True

    def __init__(self, n_agents: int) -> None:
        self.n_agents = self.obs_size = self.state_size = n_agents

    def start(self, chance: Floats) -> Any:
        """Uniform in the box."""
        bits = (chance * 2.0**53).astype(np.uint64)
        return single(2.0 * uniforms(bits, np.zeros_like(bits), self.n_agents).T - 1.0)

    def observe(self, state: NDArray[Any]) -> tuple[Floats, Floats]:
        """The point, for every agent."""
        return np.repeat(state[:, None], self.n_agents, axis=1), state

    def step(self, state: NDArray[Any], action: NDArray[Any], last: Bools) -> Moved:
        """Pay for where the point was, and move; only the time limit ends an episode."""
        after: Any = single(np.clip(state + MOVE * np.clip(single(action[..., 0]), -1.0, 1.0), -1.0, 1.0))
        return after, self.reward(state), np.zeros(len(after), np.bool_)

    def reward(self, state: NDArray[Any]) -> Floats:
        """Of points ``[E, n]``."""
        distance = np.sqrt(2.0 / self.n_agents * np.square(state).sum(1))
        width = PEAK_WIDTH[self.n_agents]
        peak = 0.5 * (np.cos(np.pi * distance / width) + 1.0)
        ring = 0.15 * (np.cos(15.0 * (distance - 0.8)) + 1.0)
        on_ring = (distance >= RING[0]) & (distance < RING[1])
        return np.asarray(np.where(distance < width, peak, np.where(on_ring, ring, 0.0)), np.float64)


class TwoSteps:
    """The first joint action leads to one of four states, and the second step pays that state's value and ends.

    Both agents see the state. What an agent's own action leads to depends on its partner.
    """

    n_agents = 2
    actions = 2
    dimensions = 1
    obs_size = 5
    state_size = 5
    can_win = False
    reward_per_agent = True

    def start(self, chance: Floats) -> State:
        """State 0."""
        return np.zeros((len(chance), 1), np.int64)

    def observe(self, state: State) -> tuple[Floats, Floats]:
        """The state's one-hot number, the same for both."""
        shown = np.eye(5)[state[:, 0]]
        return np.repeat(shown[:, None], 2, axis=1), shown

    def recover(self, shown: Floats) -> tuple[State, Bools]:
        """The number of the hot entry."""
        number = shown.argmax(-1)
        return number[:, None], np.asarray((shown == np.eye(5)[number]).all(-1))

    def action_mask(self, state: State) -> Bools | None:
        """Everything is legal."""
        return np.ones((len(state), 2, 2), np.bool_)

    def step(self, state: State, action: NDArray[Any], last: Bools) -> Moved:
        """Move, or pay and end."""
        at_start = state[:, 0] == 0
        reached = 1 + 2 * action[:, 0] + action[:, 1]
        earned = np.append(0.0, np.ravel(VALUES))[state[:, 0]]
        return np.where(at_start, reached, state[:, 0])[:, None], earned, ~at_start
